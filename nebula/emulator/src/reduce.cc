#include "reduce.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace emulator {
namespace {

struct BFloat16 {
  uint16_t bits = 0;
  BFloat16() = default;
  explicit BFloat16(float value) {  // to the nearest, ties to even
    uint32_t word;
    memcpy(&word, &value, 4);
    bits = static_cast<uint16_t>((word + 0x7fff + ((word >> 16) & 1)) >> 16);
  }
  explicit operator float() const {
    uint32_t word = uint32_t(bits) << 16;
    float value;
    memcpy(&value, &word, 4);
    return value;
  }
};

// T is what memory holds, A what the arithmetic is done in.
template <class T, class A, class Op>
void fold(const std::vector<const char*>& in, char* out, size_t count, double divisor, Op op) {
  auto* to = reinterpret_cast<T*>(out);
  for (size_t i = 0; i < count; ++i) {
    A sum = static_cast<A>(reinterpret_cast<const T*>(in[0])[i]);
    for (size_t r = 1; r < in.size(); ++r) sum = op(sum, static_cast<A>(reinterpret_cast<const T*>(in[r])[i]));
    to[i] = static_cast<T>(divisor == 1 ? sum : static_cast<A>(sum / static_cast<A>(divisor)));
  }
}

template <class T, class A>
C_Status fold_by(const std::vector<const char*>& in, char* out, size_t count, C_CCLReduceOp op) {
  double divisor = op == AVG ? static_cast<double>(in.size()) : 1;
  switch (op) {
    case SUM:
    case AVG: fold<T, A>(in, out, count, divisor, [](A a, A b) { return static_cast<A>(a + b); }); break;
    case PRODUCT: fold<T, A>(in, out, count, 1, [](A a, A b) { return static_cast<A>(a * b); }); break;
    case MAX: fold<T, A>(in, out, count, 1, [](A a, A b) { return std::max(a, b); }); break;
    case MIN: fold<T, A>(in, out, count, 1, [](A a, A b) { return std::min(a, b); }); break;
    default: return C_ERROR;
  }
  return C_SUCCESS;
}

}  // namespace

size_t width(C_DataType type) {
  switch (type) {
    case BOOL: case UINT8: case INT8: return 1;
    case UINT16: case INT16: case FLOAT16: case BFLOAT16: return 2;
    case UINT32: case INT32: case FLOAT32: return 4;
    case UINT64: case INT64: case FLOAT64: case COMPLEX64: return 8;
    case COMPLEX128: return 16;
    default: return 0;
  }
}

C_Status reduce(const std::vector<const char*>& in, char* out, size_t count, C_DataType type, C_CCLReduceOp op) {
  switch (type) {
    case BOOL: case UINT8: return fold_by<uint8_t, uint8_t>(in, out, count, op);
    case INT8: return fold_by<int8_t, int8_t>(in, out, count, op);
    case UINT16: return fold_by<uint16_t, uint16_t>(in, out, count, op);
    case INT16: return fold_by<int16_t, int16_t>(in, out, count, op);
    case UINT32: return fold_by<uint32_t, uint32_t>(in, out, count, op);
    case INT32: return fold_by<int32_t, int32_t>(in, out, count, op);
    case UINT64: return fold_by<uint64_t, uint64_t>(in, out, count, op);
    case INT64: return fold_by<int64_t, int64_t>(in, out, count, op);
    case FLOAT32: return fold_by<float, float>(in, out, count, op);
    case FLOAT64: return fold_by<double, double>(in, out, count, op);
    case FLOAT16: return fold_by<_Float16, float>(in, out, count, op);
    case BFLOAT16: return fold_by<BFloat16, float>(in, out, count, op);
    default: return C_ERROR;
  }
}

}  // namespace emulator
