// When does a call on a group begin and end in virtual time?
#pragma once
#include <functional>

#include "group.h"

#include "paddle/phi/backends/device_ext.h"

namespace emulator {

// One rank's part in one collective: it begins when the last rank has begun.
class Call {
 public:
  Call(Operation operation, C_CCLComm group, C_Stream stream);

  void post(int member, const void* data, size_t bytes);
  bool take(int member, void* into, size_t bytes);
  // Exchanges nothing but start times; for collectives in which some pair of ranks shares no data.
  bool agree();
  // The call lasts `seconds` from the latest start; `bytes` is what this rank puts on the wire. `root` is a member.
  C_Status end(double seconds, double bytes, int root = 0);

 private:
  Operation operation_;
  C_CCLComm group_;
  C_Stream stream_;
  double start_s_, latest_s_;
};

// Between start_batch and end_batch sends and receives begin together, and receives wait until every send is out.
C_Status start_batch();
C_Status end_batch();
C_Status send(void* data, size_t count, C_DataType type, size_t to, C_CCLComm group, C_Stream stream);
C_Status receive(void* into, size_t count, C_DataType type, size_t from, C_CCLComm group, C_Stream stream);

}  // namespace emulator
