// What are the emulated devices and the links between ranks like?
//
// The answer is the file named by NEBULA_EMULATED_DEVICES, which nebula.emulator.table writes.
#pragma once
#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace emulator {

struct Device {
  size_t memory_bytes = 0;
  double float32_flops = 0, bfloat16_flops = 0, float16_flops = 0;  // per second
  double memory_bytes_per_s = 0;
  double kernel_s = 0;          // the fixed cost of one kernel
  double host_bytes_per_s = 0;  // between host and device
};

struct Link {
  double bytes_per_s = 0;  // per direction
  double latency_s = 0;
};

// What happens to a rank's device in steps `first` to `last`, counted from 0.
struct Fault {
  int rank = 0, first = 0, last = 0;
  double factor = 0;  // by which kernels take longer; 0: the device fails
};

class Table {
 public:
  // The table of this process; read once. A table that cannot be read has no devices and has said so.
  static const Table& get();

  const std::vector<Device>& devices() const { return devices_; }
  const Device& device(int id) const { return devices_[static_cast<size_t>(id)]; }
  // The link that carries what rank `from` sends to rank `to`; a line on stderr and null when there is none.
  const Link* link(int from, int to) const;
  // Whether this rank runs on the host's CPU beside ranks on emulated devices; Paddle's launcher is no rank.
  bool plain() const;
  // By what this rank's kernels take longer in a step, and whether its device fails when the step begins.
  double slowness(int step) const;
  bool fails(int step) const;
  // How long a rank waits, in real time, for a peer before it calls the job stuck.
  double patience_s() const { return patience_s_; }

 private:
  std::string read(const char* path);  // what is wrong, or nothing
  std::string read_line(const std::string& line);

  std::vector<Device> devices_;
  std::map<std::pair<int, int>, Link> links_;
  std::vector<Fault> faults_;
  std::set<int> plain_;
  double patience_s_ = 300;
};

// The global rank of this process: PADDLE_TRAINER_ID, or 0.
int rank();

// One line on stderr, beginning with the device kind and the rank.
void say(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace emulator
