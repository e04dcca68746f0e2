// Who takes part in a collective, and what does it cost them?
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "table.h"
#include "transport.h"

#include "paddle/phi/backends/device_ext.h"

// Paddle's name for a communicator: one rank's end of a group.
struct C_CCLComm_st {
  uint64_t id = 0;                  // the same on all members, and on no other group
  int self = 0, size = 0;           // within the group
  std::vector<int> ranks;           // the global rank of each member
  std::vector<std::unique_ptr<emulator::Peer>> peers;  // by member; the own entry stays closed
  emulator::Link slowest;           // least bandwidth and greatest latency of all pairs
};

namespace emulator {

// Seconds of a collective over a ring of n ranks whose slowest link has latency a and bandwidth b, the whole array
// being V bytes (Thakur, Rabenseifner, Gropp 2005, section 4): each of the ring's steps pays a.
double ring_all_reduce_s(const C_CCLComm_st& group, double bytes);  // 2 (n-1) (a + V / (n b))
double ring_gather_s(const C_CCLComm_st& group, double bytes);      // (n-1) (a + V / (n b))
double ring_broadcast_s(const C_CCLComm_st& group, double bytes);   // (n-1) a + V / b, cut into small pieces
double link_s(const Link& link, double bytes);                      // a + V / b

void fill_groups(C_DeviceInterface* interface);

}  // namespace emulator
