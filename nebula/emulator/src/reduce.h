// What is the sum (maximum, …) of the ranks' arrays?
#pragma once
#include <cstddef>
#include <vector>

#include "paddle/phi/backends/device_ext.h"

namespace emulator {

size_t width(C_DataType type);  // bytes per element; 0 for an unknown type

// out[i] = op over in[rank][i], in rank order, so that every rank gets the same bits. Half types add in float.
C_Status reduce(const std::vector<const char*>& in, char* out, size_t count, C_DataType type, C_CCLReduceOp op);

}  // namespace emulator
