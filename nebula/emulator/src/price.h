// What does one kernel cost on an emulated device?
//
// A price is computed from the shapes of the tensors that the kernel was really given: no plan, no model of the
// network and none of the cost model's code takes part. Arithmetic and memory traffic overlap, so a product lasts
// the longer of the two (the roofline of Williams, Waterman, Patterson 2009); everything else lasts as long as its
// bytes take. Each launch adds the device's fixed kernel cost.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "table.h"

namespace emulator {

constexpr int kMostDims = 9;

// One tensor of a call. Inputs that share one argument (a list) share its slot.
struct Operand {
  int slot = 0;
  int ndim = 0;
  int64_t dims[kMostDims] = {};
  double count = 0;  // elements
  double bytes = 0;  // 0 when nothing was allocated for it
  const void* address = nullptr;
  int64_t dim(int from_end) const { return ndim >= from_end ? dims[ndim - from_end] : 1; }
};

enum class Precision { Float32, Float16, BFloat16 };

struct Work {
  Precision precision = Precision::Float32;  // of the first input; all but the half types count as float32
  std::vector<Operand> inputs, outputs;
  std::string equation;  // of an einsum
};

struct Price {
  double seconds = 0, bytes = 0, flops = 0;
};

enum class Form {
  Bytes,            // reads its inputs, writes its outputs
  Free,             // moves nothing on the device
  FreeIfShared,     // a view when its output lies where its input lies, else a copy
  PassedOn,         // the gradient of a sum: an output that lies where the incoming gradient lies is not written
  Product,          // matrix product of the slots left and right
  ProductGrad,      // the products behind the gradients of left and right, each if it is asked for
  Convolution,      // input left, filter right; `transposed` when the filter's first dim belongs to the input
  ConvolutionGrad,
  Einsum,
  EinsumGrad,
  Recurrent,        // each step of input left multiplies every matrix of right; `transposed` for its gradient
};

struct Rule {
  Form form = Form::Bytes;
  int left = 0, right = 1;  // slots
  bool transposed = false;
  int table = -1;       // the slot of which only as much is read as comes out
  uint32_t unread = 0;  // bit s: slot s gives its shape alone
};

Rule rule_for(const std::string& kernel);
// Multiply-adds of an einsum: the product of the sizes of all its labels.
double einsum_points(const std::string& equation, const std::vector<Operand>& inputs);
Price price(const Rule& rule, const Device& device, const Work& work);

}  // namespace emulator
