#include "group.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>

#include "work.h"

namespace emulator {
namespace {

struct RootId {  // what Paddle carries from the first member to the others
  Address address;
  uint64_t id;
  char spare[52];
};
struct Card {  // how a member introduces itself
  uint32_t member;
  int32_t rank;
  Address address;
};

std::mutex g_mutex;
std::map<uint32_t, int> g_listeners;  // port -> socket of a root id that was given out

C_Status root_id_size(size_t* size) {
  *size = sizeof(RootId);
  return C_SUCCESS;
}
C_Status root_id(C_CCLRootId* id) {
  RootId root{};
  static std::atomic<uint64_t> made{0};
  root.id = static_cast<uint64_t>(rank()) << 32 | ++made;
  int listener = listen_anywhere(&root.address);
  if (listener < 0) {
    say("no port is free for a new group");
    return C_FAILED;
  }
  std::lock_guard<std::mutex> lock(g_mutex);
  g_listeners[root.address.port] = listener;
  memcpy(id->data, &root, sizeof root);
  return C_SUCCESS;
}

std::string describe(const std::vector<Card>& cards) {
  std::string text = "ranks";
  for (auto& card : cards) text += " " + std::to_string(card.rank);
  return text;
}

// The first member hears every other one, then tells all of them who is where.
bool meet_as_first(std::vector<Card>* cards, std::vector<int>* sockets, int listener) {
  for (size_t joined = 1; joined < cards->size(); ++joined) {
    int caller = answer(listener);
    Card card{};
    if (caller < 0 || read_all(caller, &card, sizeof card) != Got::All || card.member >= cards->size()) return false;
    (*cards)[card.member] = card;
    (*sockets)[card.member] = caller;
  }
  for (size_t i = 1; i < cards->size(); ++i)
    if (!write_all((*sockets)[i], cards->data(), cards->size() * sizeof(Card))) return false;
  return true;
}

// Every other member calls the first, learns the addresses, calls those below it and answers those above.
bool meet_as_other(std::vector<Card>* cards, std::vector<int>* sockets, int listener, const Card& own,
                   const Address& first) {
  size_t self = own.member;
  int caller = (*sockets)[0] = dial(first);
  if (caller < 0 || !write_all(caller, &own, sizeof own) ||
      read_all(caller, cards->data(), cards->size() * sizeof(Card)) != Got::All)
    return false;
  for (size_t i = 1; i < self; ++i) {
    (*sockets)[i] = dial((*cards)[i].address);
    if ((*sockets)[i] < 0 || !write_all((*sockets)[i], &own.member, sizeof own.member)) return false;
  }
  for (size_t i = self + 1; i < cards->size(); ++i) {
    int answered = answer(listener);
    uint32_t member = 0;
    if (answered < 0 || read_all(answered, &member, sizeof member) != Got::All || member >= cards->size())
      return false;
    (*sockets)[member] = answered;
  }
  return true;
}

bool find_slowest(C_CCLComm_st* group) {
  group->slowest = Link{0, 0};
  for (int from : group->ranks)
    for (int to : group->ranks) {
      if (from == to) continue;
      const Link* link = Table::get().link(from, to);
      if (!link) return false;
      bool first = group->slowest.bytes_per_s == 0;
      group->slowest.bytes_per_s = first ? link->bytes_per_s : std::min(group->slowest.bytes_per_s, link->bytes_per_s);
      group->slowest.latency_s = std::max(group->slowest.latency_s, link->latency_s);
    }
  return true;
}

int listener_for(size_t member, const Address& first, Address* own) {
  if (member != 0) return listen_anywhere(own);
  std::lock_guard<std::mutex> lock(g_mutex);
  auto found = g_listeners.find(first.port);
  if (found == g_listeners.end()) return -1;
  int listener = found->second;
  g_listeners.erase(found);
  return listener;
}

C_Status join(size_t size, C_CCLRootId* id, size_t member, C_CCLComm* made) {
  RootId root;
  memcpy(&root, id->data, sizeof root);
  std::vector<Card> cards(size);
  std::vector<int> sockets(size, -1);
  Card own{static_cast<uint32_t>(member), rank(), {}};
  int listener = listener_for(member, root.address, &own.address);
  cards[member] = own;
  bool met = member == 0 ? meet_as_first(&cards, &sockets, listener)
                         : meet_as_other(&cards, &sockets, listener, own, root.address);
  if (listener >= 0) close(listener);
  if (!met) {
    say("a group of %zu ranks did not come together: a member went away or did not join within %g s", size,
        Table::get().patience_s());
    return C_FAILED;
  }
  auto group = std::make_unique<C_CCLComm_st>();
  group->id = root.id;
  group->self = static_cast<int>(member);
  group->size = static_cast<int>(size);
  for (auto& card : cards) group->ranks.push_back(card.rank);
  if (!find_slowest(group.get())) return C_FAILED;
  note_group(group->id, group->ranks);
  for (size_t i = 0; i < size; ++i) {
    group->peers.emplace_back(new Peer);
    if (i != member) group->peers[i]->open(sockets[i], cards[i].rank, describe(cards));
  }
  *made = group.release();
  return C_SUCCESS;
}

C_Status leave(C_CCLComm group) {
  delete group;
  return C_SUCCESS;
}
C_Status name_group(C_CCLComm group, char* name) {
  snprintf(name, 128, "sim_npu_%d_of_%d", group->self, group->size);
  return C_SUCCESS;
}

}  // namespace

double link_s(const Link& link, double bytes) { return link.latency_s + bytes / link.bytes_per_s; }

double ring_gather_s(const C_CCLComm_st& group, double bytes) {
  return group.size < 2 ? 0 : (group.size - 1) * link_s(group.slowest, bytes / group.size);
}
double ring_all_reduce_s(const C_CCLComm_st& group, double bytes) { return 2 * ring_gather_s(group, bytes); }
double ring_broadcast_s(const C_CCLComm_st& group, double bytes) {
  return group.size < 2 ? 0 : (group.size - 2) * group.slowest.latency_s + link_s(group.slowest, bytes);
}

void fill_groups(C_DeviceInterface* interface) {
  interface->xccl_get_unique_id_size = root_id_size;
  interface->xccl_get_unique_id = root_id;
  interface->xccl_comm_init_rank = join;
  interface->xccl_destroy_comm = leave;
  interface->xccl_get_comm_name = name_group;
}

}  // namespace emulator
