#include "price.h"

#include <algorithm>
#include <cmath>

namespace emulator {
namespace {

double peak_flops(const Device& device, Precision precision) {
  if (precision == Precision::Float16) return device.float16_flops;
  if (precision == Precision::BFloat16) return device.bfloat16_flops;
  return device.float32_flops;
}

const Operand* in_slot(const std::vector<Operand>& operands, int slot) {
  for (auto& operand : operands)
    if (operand.slot == slot) return &operand;
  return nullptr;
}

// Adds one kernel that does so much arithmetic and moves so many bytes.
void add(Price* sum, const Device& device, Precision precision, double flops, double bytes) {
  sum->flops += flops;
  sum->bytes += bytes;
  sum->seconds +=
      device.kernel_s + std::max(flops / peak_flops(device, precision), bytes / device.memory_bytes_per_s);
}

// The dim that a product sums over. Of (m, k) (k, n) -> (m, n) the trailing two dims of each give m k, k n and m n in
// either order, so that no transpose flag is needed; a vector is all of k.
double summed(const Operand& x, const Operand& y, const Operand& z) {
  if (x.ndim < 2) return x.count;
  if (y.ndim < 2) return y.count;
  double mk = double(x.dim(1)) * x.dim(2), kn = double(y.dim(1)) * y.dim(2), mn = double(z.dim(1)) * z.dim(2);
  // a batch of one row, or a right side flattened to fewer dims, leaves z with other trailing dims than (m, n)
  bool plain = z.ndim >= 2 && std::max(x.ndim, y.ndim) == z.ndim;
  if (!plain) mk = x.count, kn = y.count, mn = z.count;
  return mn > 0 ? std::round(std::sqrt(mk * kn / mn)) : 0;
}

bool same_memory(const Operand& a, const Operand& b) {
  return a.address && a.address == b.address && a.bytes == b.bytes;
}

// What a call reads: each array once, however often it is given.
double bytes_read(const std::vector<Operand>& inputs, uint32_t unread = 0, int table = -1, double out_bytes = 0) {
  std::vector<const Operand*> counted;
  double bytes = 0;
  for (auto& input : inputs) {
    auto same = [&](const Operand* other) { return same_memory(*other, input); };
    bool read = input.slot >= 32 || !(unread >> input.slot & 1);
    if (!read || std::any_of(counted.begin(), counted.end(), same)) continue;
    bytes += input.slot == table ? std::min(input.bytes, out_bytes) : input.bytes;
    counted.push_back(&input);
  }
  return bytes;
}

double bytes_written(const std::vector<Operand>& outputs) {
  double bytes = 0;
  for (auto& output : outputs) bytes += output.bytes;
  return bytes;
}

bool shares_memory(const Operand& output, const std::vector<Operand>& inputs) {
  return std::any_of(inputs.begin(), inputs.end(), [&](const Operand& input) { return same_memory(input, output); });
}

Price by_bytes(const Rule& rule, const Device& device, const Work& work) {
  double out = bytes_written(work.outputs);
  Price sum;
  add(&sum, device, work.precision, 0, bytes_read(work.inputs, rule.unread, rule.table, out) + out);
  return sum;
}

Price product(const Rule& rule, const Device& device, const Work& work) {
  auto *x = in_slot(work.inputs, rule.left), *y = in_slot(work.inputs, rule.right);
  if (!x || !y || work.outputs.empty()) return by_bytes(rule, device, work);
  const Operand& z = work.outputs[0];
  Price sum;
  double bytes = bytes_read(work.inputs) + bytes_written(work.outputs);
  add(&sum, device, work.precision, 2 * z.count * summed(*x, *y, z), bytes);
  return sum;
}

double convolution_flops(const Rule& rule, const Operand& input, const Operand& filter, const Operand& out) {
  double sliding = rule.transposed ? input.count : out.count;
  return 2 * sliding * filter.count / std::max<double>(1, filter.dims[0]);
}

Price convolution(const Rule& rule, const Device& device, const Work& work) {
  auto *x = in_slot(work.inputs, rule.left), *y = in_slot(work.inputs, rule.right);
  if (!x || !y || work.outputs.empty()) return by_bytes(rule, device, work);
  Price sum;
  double bytes = bytes_read(work.inputs) + bytes_written(work.outputs);
  add(&sum, device, work.precision, convolution_flops(rule, *x, *y, work.outputs[0]), bytes);
  return sum;
}

// One kernel for the gradient of each factor that is asked for: it reads the incoming gradient and the other factor.
// A further output, the gradient of a bias, is a sum over the incoming gradient.
Price gradient(const Rule& rule, const Device& device, const Work& work) {
  auto *x = in_slot(work.inputs, rule.left), *y = in_slot(work.inputs, rule.right);
  if (!x || !y || work.inputs.size() < 3) return by_bytes(rule, device, work);
  const Operand& dz = work.inputs.back();
  bool matrices = rule.form == Form::ProductGrad;
  double flops = matrices ? 2 * dz.count * summed(*x, *y, dz) : convolution_flops(rule, *x, *y, dz);
  Price sum;
  for (auto& out : work.outputs) {
    if (out.slot == rule.left) add(&sum, device, work.precision, flops, dz.bytes + y->bytes + out.bytes);
    else if (out.slot == rule.right) add(&sum, device, work.precision, flops, dz.bytes + x->bytes + out.bytes);
    else add(&sum, device, work.precision, 0, dz.bytes + out.bytes);
  }
  return sum;
}

Price einsum(const Device& device, const Work& work) {
  Price sum;
  double bytes = bytes_read(work.inputs);
  double flops = work.inputs.size() > 1 ? 2 * einsum_points(work.equation, work.inputs) : 0;
  for (auto& out : work.outputs) {
    if (out.slot != 0) break;  // what follows is kept for the gradient
    add(&sum, device, work.precision, flops, bytes + out.bytes);
  }
  return sum;
}

Price view_or_copy(const Rule& rule, const Device& device, const Work& work) {
  bool shared = !work.outputs.empty() && shares_memory(work.outputs[0], work.inputs);
  return shared ? Price{} : by_bytes(rule, device, work);
}

Price passed_on(const Rule& rule, const Device& device, const Work& work) {
  Work written = work;
  written.outputs.clear();
  for (auto& out : work.outputs)
    if (!shares_memory(out, work.inputs)) written.outputs.push_back(out);
  return written.outputs.empty() ? Price{} : by_bytes(rule, device, written);
}

Price recurrent(const Rule& rule, const Device& device, const Work& work) {
  auto* x = in_slot(work.inputs, rule.left);
  double weights = 0;
  for (auto& input : work.inputs)
    if (input.slot == rule.right && input.ndim == 2) weights += input.count;
  double steps = x && x->ndim ? x->count / std::max<double>(1, static_cast<double>(x->dim(1))) : 0;
  Price sum;
  add(&sum, device, work.precision, (rule.transposed ? 4 : 2) * steps * weights,
      bytes_read(work.inputs) + bytes_written(work.outputs));
  return sum;
}

}  // namespace

Price price(const Rule& rule, const Device& device, const Work& work) {
  switch (rule.form) {
    case Form::Free: return {};
    case Form::FreeIfShared: return view_or_copy(rule, device, work);
    case Form::Product: return product(rule, device, work);
    case Form::Convolution: return convolution(rule, device, work);
    case Form::ProductGrad:
    case Form::ConvolutionGrad: return gradient(rule, device, work);
    case Form::Einsum:
    case Form::EinsumGrad: return einsum(device, work);
    case Form::PassedOn: return passed_on(rule, device, work);
    case Form::Recurrent: return recurrent(rule, device, work);
    default: return by_bytes(rule, device, work);
  }
}

}  // namespace emulator
