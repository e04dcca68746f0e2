#include "call.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <map>
#include <vector>

#include "clock.h"
#include "log.h"
#include "reduce.h"
#include "work.h"

namespace emulator {
namespace {

thread_local int t_depth = 0;  // of open batches
thread_local int t_batch = 0;  // their number, counted from 1
std::atomic<int> g_batches{0};
thread_local std::map<C_Stream, double> t_batch_start;
thread_local std::vector<std::function<bool()>> t_receives;

double point_start(C_Stream stream) {
  return t_depth ? t_batch_start.emplace(stream, begin(stream)).first->second : begin(stream);
}

bool receive_now(void* into, size_t bytes, int from, C_CCLComm group, C_Stream stream, double start, int batch) {
  const Link* link = Table::get().link(group->ranks[from], group->ranks[group->self]);
  double sent = link ? group->peers[from]->take(Operation::PointToPoint, into, bytes) : -1;
  if (sent < 0) return false;
  double end = std::max(start, sent + link_s(*link, static_cast<double>(bytes)));
  finish(stream, end);
  note({.act = Act::Receive,
        .stream = number(stream),
        .peer = group->ranks[from],
        .batch = batch,
        .id = group->id,
        .bytes = static_cast<double>(bytes)});
  char name[64];
  snprintf(name, sizeof name, "recv from %d", group->ranks[from]);
  record(kCollective, name, number(stream), start, end, static_cast<double>(bytes), 0);
  return true;
}

}  // namespace

Call::Call(Operation operation, C_CCLComm group, C_Stream stream)
    : operation_(operation), group_(group), stream_(stream), start_s_(begin(stream)), latest_s_(start_s_) {}

void Call::post(int member, const void* data, size_t bytes) {
  group_->peers[member]->post({bytes, start_s_, operation_, 0}, data);
}

bool Call::take(int member, void* into, size_t bytes) {
  double other = group_->peers[member]->take(operation_, into, bytes);
  latest_s_ = std::max(latest_s_, other);
  return other >= 0;
}

bool Call::agree() {
  for (int r = 0; r < group_->size; ++r)
    if (r != group_->self) post(r, nullptr, 0);
  for (int r = 0; r < group_->size; ++r)
    if (r != group_->self && !take(r, nullptr, 0)) return false;
  return true;
}

C_Status Call::end(double seconds, double bytes, int root) {
  finish(stream_, latest_s_ + seconds);
  note({.act = Act::Collective,
        .stream = number(stream_),
        .peer = static_cast<int32_t>(operation_),
        .spare = root,
        .id = group_->id,
        .bytes = bytes});
  // the wait for the last rank is part of the entry: on hardware the kernel occupies the stream while it waits
  record(kCollective, name_of(operation_), number(stream_), start_s_, latest_s_ + seconds, bytes, 0);
  return C_SUCCESS;
}

C_Status send(void* data, size_t count, C_DataType type, size_t to, C_CCLComm group, C_Stream stream) {
  size_t bytes = count * width(type);
  const Link* link = Table::get().link(group->ranks[group->self], group->ranks[to]);
  if (!link) return C_FAILED;
  double start = point_start(stream);
  group->peers[to]->post({bytes, start, Operation::PointToPoint, 0}, data);
  double end = start + link_s(*link, static_cast<double>(bytes));
  finish(stream, end);
  note({.act = Act::Send,
        .stream = number(stream),
        .peer = group->ranks[to],
        .batch = t_depth ? t_batch : 0,
        .id = group->id,
        .bytes = static_cast<double>(bytes)});
  char name[64];
  snprintf(name, sizeof name, "send to %d", group->ranks[to]);
  record(kCollective, name, number(stream), start, end, static_cast<double>(bytes), 0);
  return C_SUCCESS;
}

C_Status receive(void* into, size_t count, C_DataType type, size_t from, C_CCLComm group, C_Stream stream) {
  double start = point_start(stream);
  int batch = t_depth ? t_batch : 0;
  auto job = [=] { return receive_now(into, count * width(type), static_cast<int>(from), group, stream, start, batch); };
  if (t_depth) {
    t_receives.push_back(job);
    return C_SUCCESS;
  }
  return job() ? C_SUCCESS : C_FAILED;
}

C_Status start_batch() {
  if (!t_depth++) t_batch = ++g_batches;
  return C_SUCCESS;
}

C_Status end_batch() {
  if (--t_depth) return C_SUCCESS;
  auto receives = std::move(t_receives);
  t_receives.clear();
  t_batch_start.clear();
  bool all = true;
  for (auto& receive_job : receives) all = all && receive_job();
  return all ? C_SUCCESS : C_FAILED;
}

}  // namespace emulator
