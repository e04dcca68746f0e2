// What did this rank do, and what did each thing wait for? The record from which the times of all ranks can be found
// again, with links that are shared: nebula.emulator.replay reads it.
//
// It is kept where NEBULA_EMULATED_WORK names a folder, and written there when the process ends.
#pragma once
#include <cstdint>
#include <vector>

namespace emulator {

enum class Act : int32_t {
  Run,          // a stream works for `seconds`
  Host,         // this thread works for `seconds`
  Note,         // a stream notes an event, `id`
  Await,        // a stream waits for an event
  Join,         // this thread waits for a stream
  JoinEvent,    // ... for an event
  JoinAll,      // ... for all streams of the process
  Send,         // `bytes` to rank `peer` over group `id`, on a stream
  Receive,      // ... from rank `peer`
  Collective,   // `bytes` over each link of its ring, `peer` the operation, `spare` its root
  Round,        // of an exchange of all with all: `bytes` to `peer`, `other` bytes from it
  Step,         // a training step begins: number `peer`
};

struct Deed {
  Act act;
  int32_t thread = 0, stream = 0, peer = 0, batch = 0, spare = 0;
  uint64_t id = 0;
  double seconds = 0, bytes = 0, other = 0;
};

bool noting();
void note(Deed deed);  // fills in the thread
// A group's members, by global rank; the same `id` on all of them.
void note_group(uint64_t id, const std::vector<int>& ranks);

}  // namespace emulator
