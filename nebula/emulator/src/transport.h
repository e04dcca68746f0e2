// How do bytes get from one rank to another?
//
// Each pair of ranks of a group shares one TCP connection. A message carries its operation, its size and the
// virtual time at which its sender began, so that mismatched calls are named instead of hanging.
#pragma once
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace emulator {

enum class Operation : uint32_t { AllReduce, AllGather, ReduceScatter, Broadcast, Reduce, AllToAll, PointToPoint };
const char* name_of(Operation operation);

struct Envelope {
  uint64_t bytes = 0;
  double start_s = 0;
  Operation operation = Operation::PointToPoint;
  uint32_t spare = 0;
};

// The other end of a connection, as this rank sees it.
class Peer {
 public:
  ~Peer();  // first sends what is queued: Paddle leaves its groups when a rank ends, maybe right after a send
  // Takes over the socket; `rank` is the global rank at its other end, `group` how messages call the group.
  void open(int socket, int rank, const std::string& group);
  // Returns at once: a thread of the peer writes, as a device's communication stream would.
  void post(Envelope envelope, const void* data);
  // Waits for the next message and stores its body; its sender's start, or -1 after a line on stderr.
  double take(Operation operation, void* into, uint64_t bytes);
  int rank() const { return rank_; }

 private:
  void write_queue();
  double complain(const char* what, Operation operation);

  int socket_ = -1, rank_ = -1;
  std::string group_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::vector<char>> queue_;
  bool closing_ = false;
  std::thread writer_;
};

// Plain sockets, for the hand-shake of a new group.
struct Address {
  char host[64];
  uint32_t port;
};
int listen_anywhere(Address* address);  // a listening socket, or -1
int dial(const Address& address);       // a connected socket, or -1
int answer(int listener);               // the next caller's socket, or -1 once patience has run out
bool write_all(int socket, const void* data, size_t bytes);
enum class Got { All, Closed, Nothing };  // Nothing: not a byte more came within the table's patience
Got read_all(int socket, void* into, size_t bytes);

}  // namespace emulator
