// How does a CPU kernel come to work on device memory?
//
// The memory of an emulated device is host memory. While a kernel runs, its tensors are shown as host memory at the
// same address, and what it allocates comes from the device, so that the device's limit holds. Nothing is copied:
// writes through views and in-place operators reach the memory that they should.
#pragma once
#include <memory>
#include <vector>

#include "price.h"

#include "paddle/phi/backends/cpu/cpu_context.h"
#include "paddle/phi/core/dense_tensor.h"
#include "paddle/utils/small_vector.h"

namespace emulator {

// Allocates on a device and shows the memory as the host's.
class DeviceAllocator : public phi::Allocator {
 public:
  explicit DeviceAllocator(const phi::Place& place) : place_(place) {}
  AllocationPtr Allocate(size_t bytes) override;
  bool IsAllocThreadSafe() const override { return true; }

 private:
  phi::Place place_;
};

// The CPU context that kernels of one device run in.
struct Bench {
  explicit Bench(const phi::Place& place);
  static Bench& of(const phi::Place& place);

  DeviceAllocator allocator;
  phi::CPUContext context;
};

// The tensors of one call, lent to the host until give_back or the end of the scope.
class Loan {
 public:
  explicit Loan(Bench* bench) : bench_(bench) {}
  ~Loan();
  void add_input(const phi::DenseTensor* tensor, int slot);
  void add_output(phi::DenseTensor* tensor, int slot);
  // Returns all memory to the device; outputs that the kernel put elsewhere move there. Raises Paddle's MemoryError.
  void give_back();
  // What the call worked on, for its price; outputs have their final shapes after the kernel only.
  Work work() const;

 private:
  struct Part {
    phi::DenseTensor* tensor;
    int slot;
    bool output;
  };
  struct Lent {
    phi::DenseTensor* tensor;
    bool output, on_host;  // on_host: it lay there before, and stays
  };
  void lend(phi::DenseTensor* tensor, bool output);

  Bench* bench_;
  paddle::small_vector<Part, 16> parts_;
  paddle::small_vector<Lent, 16> lent_;
  std::vector<std::shared_ptr<phi::Allocation>> views_;
};

}  // namespace emulator
