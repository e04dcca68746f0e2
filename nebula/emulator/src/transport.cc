#include "transport.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "table.h"

namespace emulator {
namespace {

int patience_ms() { return static_cast<int>(Table::get().patience_s() * 1000); }

}  // namespace

const char* name_of(Operation operation) {
  static const char* const names[] = {"all_reduce", "all_gather", "reduce_scatter", "broadcast",
                                      "reduce",     "all_to_all", "send/recv"};
  auto index = static_cast<uint32_t>(operation);
  return index < 7 ? names[index] : "an unknown operation";
}

Peer::~Peer() {
  if (writer_.joinable()) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      closing_ = true;
    }
    wake_.notify_one();
    writer_.join();
  }
  if (socket_ >= 0) close(socket_);
}

void Peer::open(int socket, int rank, const std::string& group) {
  socket_ = socket;
  rank_ = rank;
  group_ = group;
  int on = 1;
  setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  writer_ = std::thread([this] { write_queue(); });
}

void Peer::write_queue() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return closing_ || !queue_.empty(); });
    if (queue_.empty()) return;
    auto message = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    if (!write_all(socket_, message.data(), message.size())) return;  // whoever reads from this peer will say why
    lock.lock();
  }
}

void Peer::post(Envelope envelope, const void* data) {
  std::vector<char> message(sizeof envelope + envelope.bytes);
  memcpy(message.data(), &envelope, sizeof envelope);
  if (envelope.bytes) memcpy(message.data() + sizeof envelope, data, envelope.bytes);
  std::lock_guard<std::mutex> lock(mutex_);
  queue_.push_back(std::move(message));
  wake_.notify_one();
}

double Peer::complain(const char* what, Operation operation) {
  say("rank %d %s during %s of %s", rank_, what, name_of(operation), group_.c_str());
  return -1;
}

double Peer::take(Operation operation, void* into, uint64_t bytes) {
  Envelope envelope;
  Got got = read_all(socket_, &envelope, sizeof envelope);
  if (got == Got::Closed) return complain("went away", operation);
  if (got == Got::Nothing) {
    char what[160];
    snprintf(what, sizeof what, "sent nothing for %g s (stuck, or it never makes this call: a deadlock)",
             Table::get().patience_s());
    return complain(what, operation);
  }
  if (envelope.operation != operation) {
    say("rank %d is in %s while this rank is in %s of %s: the ranks call in different orders", rank_,
        name_of(envelope.operation), name_of(operation), group_.c_str());
    return -1;
  }
  if (envelope.bytes != bytes) {
    say("rank %d sent %llu bytes where this rank expects %llu in %s of %s: the ranks disagree on shape or dtype",
        rank_, static_cast<unsigned long long>(envelope.bytes), static_cast<unsigned long long>(bytes),
        name_of(operation), group_.c_str());
    return -1;
  }
  if (read_all(socket_, into, bytes) != Got::All) return complain("went away", operation);
  return envelope.start_s;
}

int listen_anywhere(Address* address) {
  const char* host = getenv("NEBULA_EMULATED_ADDRESS");  // where other machines reach this one
  snprintf(address->host, sizeof address->host, "%s", host ? host : "127.0.0.1");
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in here{};
  here.sin_family = AF_INET;
  here.sin_addr.s_addr = host ? INADDR_ANY : htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof here;
  auto* name = reinterpret_cast<sockaddr*>(&here);
  if (listener < 0 || bind(listener, name, size) || listen(listener, 128) || getsockname(listener, name, &size))
    return -1;
  address->port = ntohs(here.sin_port);
  return listener;
}

int dial(const Address& address) {
  addrinfo hint{}, *found = nullptr;
  hint.ai_family = AF_INET;
  hint.ai_socktype = SOCK_STREAM;
  if (getaddrinfo(address.host, std::to_string(address.port).c_str(), &hint, &found)) return -1;
  int caller = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (caller >= 0 && connect(caller, found->ai_addr, found->ai_addrlen) != 0) {
    close(caller);
    caller = -1;
  }
  freeaddrinfo(found);
  return caller;
}

int answer(int listener) {
  pollfd wait{listener, POLLIN, 0};
  int ready;
  do ready = poll(&wait, 1, patience_ms());
  while (ready < 0 && errno == EINTR);
  return ready == 1 ? accept4(listener, nullptr, nullptr, SOCK_CLOEXEC) : -1;
}

bool write_all(int socket, const void* data, size_t bytes) {
  auto* next = static_cast<const char*>(data);
  while (bytes) {
    ssize_t sent = send(socket, next, bytes, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    next += sent;
    bytes -= static_cast<size_t>(sent);
  }
  return true;
}

Got read_all(int socket, void* into, size_t bytes) {
  auto* next = static_cast<char*>(into);
  while (bytes) {
    pollfd wait{socket, POLLIN, 0};
    int ready = poll(&wait, 1, patience_ms());
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0) return Got::Nothing;
    ssize_t came = recv(socket, next, bytes, 0);
    if (came < 0 && errno == EINTR) continue;
    if (came <= 0) return Got::Closed;
    next += came;
    bytes -= static_cast<size_t>(came);
  }
  return Got::All;
}

}  // namespace emulator
