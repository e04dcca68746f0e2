#include "collectives.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "call.h"
#include "clock.h"
#include "group.h"
#include "reduce.h"
#include "work.h"

namespace emulator {
namespace {

struct Range {
  size_t first, last;
  size_t count() const { return last - first; }
};
// What member `r` of `n` owns of `count` elements.
Range part(size_t count, int n, int r) {
  size_t each = count / n, rest = count % n;
  size_t first = each * r + std::min<size_t>(r, rest);
  return {first, first + each + (static_cast<size_t>(r) < rest)};
}

// Every other member sends its piece of what this one owns; their reduction goes to `out`.
C_Status reduce_own_part(Call& call, C_CCLComm group, const char* in, char* out, size_t count, C_DataType type,
                         C_CCLReduceOp op) {
  size_t w = width(type);
  for (int r = 0; r < group->size; ++r)
    if (r != group->self) {
      Range range = part(count, group->size, r);
      call.post(r, in + range.first * w, range.count() * w);
    }
  Range own = part(count, group->size, group->self);
  std::vector<std::vector<char>> pieces(group->size);
  std::vector<const char*> from(group->size);
  for (int r = 0; r < group->size; ++r) {
    from[r] = in + own.first * w;
    if (r == group->self) continue;
    pieces[r].resize(own.count() * w);
    from[r] = pieces[r].data();
    if (!call.take(r, pieces[r].data(), pieces[r].size())) return C_FAILED;
  }
  return reduce(from, out, own.count(), type, op);
}

C_Status all_reduce(void* in, void* out, size_t count, C_DataType type, C_CCLReduceOp op, C_CCLComm group,
                    C_Stream stream) {
  size_t w = width(type);
  Call call(Operation::AllReduce, group, stream);
  Range own = part(count, group->size, group->self);
  std::vector<char> sum(own.count() * w);
  auto status = reduce_own_part(call, group, static_cast<char*>(in), sum.data(), count, type, op);
  if (status != C_SUCCESS) return status;
  for (int r = 0; r < group->size; ++r)
    if (r != group->self) call.post(r, sum.data(), sum.size());
  auto* to = static_cast<char*>(out);
  std::copy(sum.begin(), sum.end(), to + own.first * w);
  for (int r = 0; r < group->size; ++r) {
    Range range = part(count, group->size, r);
    if (r != group->self && !call.take(r, to + range.first * w, range.count() * w)) return C_FAILED;
  }
  double bytes = static_cast<double>(count * w);
  return call.end(ring_all_reduce_s(*group, bytes), 2 * bytes * (group->size - 1) / group->size);
}

C_Status reduce_scatter(void* in, void* out, size_t count, C_DataType type, C_CCLReduceOp op, C_CCLComm group,
                        C_Stream stream) {
  Call call(Operation::ReduceScatter, group, stream);
  std::vector<char> sum(count * width(type));  // `out` may lie within `in`
  auto status =
      reduce_own_part(call, group, static_cast<char*>(in), sum.data(), count * group->size, type, op);
  if (status != C_SUCCESS) return status;
  std::copy(sum.begin(), sum.end(), static_cast<char*>(out));
  double part_bytes = static_cast<double>(sum.size());
  return call.end(ring_gather_s(*group, part_bytes * group->size), part_bytes * (group->size - 1));
}

C_Status all_gather(void* in, void* out, size_t count, C_DataType type, C_CCLComm group, C_Stream stream) {
  size_t bytes = count * width(type);
  Call call(Operation::AllGather, group, stream);
  auto* to = static_cast<char*>(out);
  for (int r = 0; r < group->size; ++r)
    if (r != group->self) call.post(r, in, bytes);
  memmove(to + group->self * bytes, in, bytes);
  for (int r = 0; r < group->size; ++r)
    if (r != group->self && !call.take(r, to + r * bytes, bytes)) return C_FAILED;
  double part_bytes = static_cast<double>(bytes);
  return call.end(ring_gather_s(*group, part_bytes * group->size), part_bytes * (group->size - 1));
}

C_Status broadcast(void* data, size_t count, C_DataType type, size_t root, C_CCLComm group, C_Stream stream) {
  size_t bytes = count * width(type);
  Call call(Operation::Broadcast, group, stream);
  if (!call.agree()) return C_FAILED;
  if (group->self == static_cast<int>(root)) {
    for (int r = 0; r < group->size; ++r)
      if (r != group->self) call.post(r, data, bytes);
  } else if (!call.take(static_cast<int>(root), data, bytes)) {
    return C_FAILED;
  }
  double wire = static_cast<double>(bytes);
  return call.end(ring_broadcast_s(*group, wire), group->size > 1 ? wire : 0, static_cast<int>(root));
}

C_Status reduce_to_root(void* in, void* out, size_t count, C_DataType type, C_CCLReduceOp op, size_t root,
                        C_CCLComm group, C_Stream stream) {
  size_t bytes = count * width(type);
  Call call(Operation::Reduce, group, stream);
  if (!call.agree()) return C_FAILED;
  if (group->self != static_cast<int>(root)) {
    call.post(static_cast<int>(root), in, bytes);
  } else {
    std::vector<std::vector<char>> pieces(group->size);
    std::vector<const char*> from(group->size);
    for (int r = 0; r < group->size; ++r) {
      pieces[r].resize(bytes);
      from[r] = pieces[r].data();
      if (r == group->self) memcpy(pieces[r].data(), in, bytes);
      else if (!call.take(r, pieces[r].data(), bytes)) return C_FAILED;
    }
    auto status = reduce(from, static_cast<char*>(out), count, type, op);
    if (status != C_SUCCESS) return status;
  }
  double wire = static_cast<double>(bytes);
  return call.end(ring_broadcast_s(*group, wire), group->size > 1 ? wire : 0, static_cast<int>(root));
}

// Pairwise exchange: in each of n - 1 rounds a rank sends to one peer and receives from it at the same time. Parts
// may differ in size, so each rank ends on its own.
C_Status all_to_all(const void** send_parts, const size_t* send_counts, const C_DataType* send_types,
                    void** receive_parts, const size_t* receive_counts, const C_DataType* receive_types, size_t self,
                    size_t size, C_CCLComm group, C_Stream stream) {
  Call call(Operation::AllToAll, group, stream);
  for (size_t r = 0; r < size; ++r)
    if (r != self) call.post(static_cast<int>(r), send_parts[r], send_counts[r] * width(send_types[r]));
  memmove(receive_parts[self], send_parts[self], send_counts[self] * width(send_types[self]));
  double seconds = 0, wire = 0;
  for (size_t r = 0; r < size; ++r) {
    if (r == self) continue;
    size_t out = send_counts[r] * width(send_types[r]), in = receive_counts[r] * width(receive_types[r]);
    if (!call.take(static_cast<int>(r), receive_parts[r], in)) return C_FAILED;
    const Link* there = Table::get().link(group->ranks[self], group->ranks[r]);
    const Link* back = Table::get().link(group->ranks[r], group->ranks[self]);
    note({.act = Act::Round,
          .stream = number(stream),
          .peer = group->ranks[r],
          .id = group->id,
          .bytes = static_cast<double>(out),
          .other = static_cast<double>(in)});
    seconds += std::max(link_s(*there, static_cast<double>(out)), link_s(*back, static_cast<double>(in)));
    wire += static_cast<double>(out);
  }
  return call.end(seconds, wire);
}

}  // namespace

void fill_collectives(C_DeviceInterface* interface) {
  fill_groups(interface);
  interface->xccl_all_reduce = all_reduce;
  interface->xccl_broadcast = broadcast;
  interface->xccl_reduce = reduce_to_root;
  interface->xccl_all_gather = all_gather;
  interface->xccl_reduce_scatter = reduce_scatter;
  interface->xccl_group_start = start_batch;
  interface->xccl_group_end = end_batch;
  interface->xccl_send = send;
  interface->xccl_recv = receive;
  interface->xccl_all_to_all = all_to_all;
}

}  // namespace emulator
