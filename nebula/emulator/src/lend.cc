#include "lend.h"

#include <algorithm>
#include <cstring>
#include <mutex>

#include "paddle/phi/backends/context_pool.h"
#include "paddle/phi/core/generator.h"

namespace emulator {
namespace {

using phi::Allocation;
using phi::DenseTensor;
using Holder = std::shared_ptr<Allocation>;

struct HostView : Allocation {  // device memory, shown as host memory
  explicit HostView(Holder owner)
      : Allocation(owner->ptr(), owner->size(), phi::CPUPlace()), base(std::move(owner)) {}
  Holder base;
};

Holder& holder_of(DenseTensor* tensor) { return const_cast<Holder&>(tensor->Holder()); }

bool on_device(const Holder& holder) { return holder->place().GetType() == phi::AllocationType::CUSTOM; }

Operand operand_of(const DenseTensor& tensor, int slot) {
  Operand operand;
  operand.slot = slot;
  operand.ndim = std::min(tensor.dims().size(), kMostDims);
  for (int d = 0; d < operand.ndim; ++d) operand.dims[d] = tensor.dims()[d];
  operand.count = std::max<double>(0, static_cast<double>(tensor.numel()));
  if (tensor.Holder()) {
    operand.bytes = operand.count * static_cast<double>(phi::SizeOf(tensor.dtype()));
    operand.address = static_cast<const char*>(tensor.Holder()->ptr()) + tensor.meta().offset;
  }
  return operand;
}

Precision precision_of(phi::DataType type) {
  if (type == phi::DataType::FLOAT16) return Precision::Float16;
  return type == phi::DataType::BFLOAT16 ? Precision::BFloat16 : Precision::Float32;
}

}  // namespace

phi::Allocator::AllocationPtr DeviceAllocator::Allocate(size_t bytes) {
  auto* context = phi::DeviceContextPool::Instance().Get(place_);
  auto& device = const_cast<phi::Allocator&>(context->GetAllocator());
  return AllocationPtr(new HostView(Holder(device.Allocate(bytes))),
                       [](Allocation* view) { delete static_cast<HostView*>(view); });
}

Bench::Bench(const phi::Place& place) : allocator(place) {
  context.SetAllocator(&allocator);
  context.SetHostAllocator(&allocator);
  context.SetZeroAllocator(&allocator);
  context.SetHostZeroAllocator(&allocator);
  auto generator = phi::DefaultCustomDeviceGenerator(phi::CustomPlace("sim_npu", place.GetDeviceId()));
  context.SetGenerator(generator.get());
  context.SetHostGenerator(generator.get());
}

Bench& Bench::of(const phi::Place& place) {
  static std::mutex mutex;
  static Bench* benches[64] = {};  // never freed: Paddle may still run kernels while the process ends
  std::lock_guard<std::mutex> lock(mutex);
  auto*& bench = benches[place.GetDeviceId()];
  if (!bench) bench = new Bench(place);
  return *bench;
}

void Loan::lend(DenseTensor* tensor, bool output) {
  for (auto& lent : lent_)
    if (lent.tensor == tensor) {
      lent.output |= output;
      return;
    }
  auto& holder = holder_of(tensor);
  lent_.push_back({tensor, output, holder && !on_device(holder)});
  if (!holder || !on_device(holder)) return;
  for (auto& view : views_)
    if (static_cast<HostView*>(view.get())->base == holder) {
      holder = view;
      return;
    }
  views_.push_back(std::make_shared<HostView>(holder));
  holder = views_.back();
}

void Loan::add_input(const DenseTensor* tensor, int slot) {
  if (!tensor) return;
  auto* lent = const_cast<DenseTensor*>(tensor);
  parts_.push_back({lent, slot, false});
  lend(lent, false);
}

void Loan::add_output(DenseTensor* tensor, int slot) {
  if (!tensor) return;
  parts_.push_back({tensor, slot, true});
  lend(tensor, true);
}

void Loan::give_back() {
  for (auto& lent : lent_) {
    auto& holder = holder_of(lent.tensor);
    if (!holder) continue;
    if (auto* view = dynamic_cast<HostView*>(holder.get())) {
      Holder base = view->base;
      holder = base;
    } else if (lent.output && !lent.on_host && !on_device(holder)) {
      Holder moved(bench_->allocator.Allocate(holder->size()));
      memcpy(moved->ptr(), holder->ptr(), holder->size());
      holder = static_cast<HostView*>(moved.get())->base;
    }
  }
  lent_.clear();
}

Loan::~Loan() {
  for (auto& lent : lent_) {  // only after an exception: what was lent goes back, what is new stays where it is
    auto& holder = holder_of(lent.tensor);
    auto* view = holder ? dynamic_cast<HostView*>(holder.get()) : nullptr;
    if (!view) continue;
    Holder base = view->base;
    holder = base;
  }
}

Work Loan::work() const {
  Work work;
  for (auto& part : parts_) {
    auto& side = part.output ? work.outputs : work.inputs;
    if (!part.output && side.empty()) work.precision = precision_of(part.tensor->dtype());
    side.push_back(operand_of(*part.tensor, part.slot));
  }
  return work;
}

}  // namespace emulator
