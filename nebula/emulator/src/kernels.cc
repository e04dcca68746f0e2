// Which kernels must be the device's own? contiguous and strided_copy, which Paddle never sends to the CPU, and
// one_hot, which differs from the CPU's.
#include <cstring>

#include "clock.h"
#include "log.h"
#include "table.h"

// not phi/config.h or phi/extension.h: they ask for headers of oneDNN, which the wheel lacks
#include "paddle/phi/backends/custom/custom_context.h"
#include "paddle/phi/core/dense_tensor.h"
#include "paddle/phi/core/kernel_registry.h"

namespace emulator {
namespace {

using Dims = std::vector<int64_t>;

Dims dims_of(const phi::DDim& d) {
  Dims dims(d.size());
  for (int i = 0; i < d.size(); ++i) dims[i] = d[i];
  return dims;
}

Dims dense_strides(const Dims& dims) {
  Dims strides(dims.size(), 1);
  for (int i = static_cast<int>(dims.size()) - 2; i >= 0; --i) strides[i] = strides[i + 1] * dims[i + 1];
  return strides;
}

// Goes through the elements of a strided array in row-major order.
class Walk {
 public:
  Walk(const Dims& dims, const Dims& strides) : dims_(dims), strides_(strides), index_(dims.size(), 0) {}
  int64_t position() const { return position_; }
  void step() {
    for (int d = static_cast<int>(dims_.size()) - 1; d >= 0; --d) {
      position_ += strides_[d];
      if (++index_[d] < dims_[d]) return;
      position_ -= strides_[d] * dims_[d];
      index_[d] = 0;
    }
  }

 private:
  const Dims &dims_, &strides_;
  Dims index_;
  int64_t position_ = 0;
};

template <class T>
void copy_strided(T* to, const Dims& to_dims, const Dims& to_strides, const T* from, const Dims& from_dims,
                  const Dims& from_strides) {
  Walk out(to_dims, to_strides), in(from_dims, from_strides);
  int64_t count = 1;
  for (auto d : to_dims) count *= d;
  for (int64_t i = 0; i < count; ++i, out.step(), in.step()) to[out.position()] = from[in.position()];
}

template <typename Context>
void charge(const Context& context, const char* name, double bytes) {
  const Device& device = Table::get().device(context.GetPlace().GetDeviceId());
  auto stream = reinterpret_cast<C_Stream>(context.stream());
  double seconds = slowed(device.kernel_s + bytes / device.memory_bytes_per_s);
  double start = run(stream, seconds);
  record(kKernel, name, number(stream), start, start + seconds, bytes, 0);
}

}  // namespace

template <typename T, typename Context>
void Contiguous(const Context& context, const phi::DenseTensor& x, phi::DenseTensor* out) {
  auto meta = out->meta();
  Dims dims = dims_of(x.dims());
  meta.strides = meta.calc_strides(x.dims());
  meta.offset = 0;
  out->set_meta(meta);
  T* to = context.template Alloc<T>(out);
  Dims strides = dense_strides(dims), from_strides = dims_of(x.strides());
  copy_strided<T>(to, dims, strides, x.data<T>(), dims, from_strides);
  charge(context, "contiguous", 2.0 * sizeof(T) * static_cast<double>(x.numel()));
}

template <typename T, typename Context>
void StridedCopy(const Context& context, const phi::DenseTensor& x, const Dims& dims, const Dims& strides,
                 int64_t offset, phi::DenseTensor* out) {
  auto meta = out->meta();
  meta.strides = phi::make_ddim(strides);
  meta.dims = phi::make_ddim(dims);
  meta.offset = offset;
  out->set_meta(meta);
  Dims from_dims = dims_of(x.dims()), from_strides = dims_of(x.strides());
  copy_strided<T>(out->data<T>(), dims, strides, x.data<T>(), from_dims, from_strides);
  charge(context, "strided_copy", 2.0 * sizeof(T) * static_cast<double>(x.numel()));
}

// As on an NPU an index out of range gives a row of zeros; Paddle's c_softmax_with_cross_entropy_grad for custom
// devices relies on it, while the CPU's kernel refuses such an index.
template <typename T, typename Context>
void OneHot(const Context& context, const phi::DenseTensor& x, const phi::Scalar& depth, phi::DenseTensor* out) {
  int64_t rows = x.numel(), columns = depth.to<int64_t>();
  Dims dims = dims_of(x.dims());
  dims.push_back(columns);
  out->Resize(phi::make_ddim(dims));
  float* to = context.template Alloc<float>(out);
  memset(to, 0, sizeof(float) * rows * columns);
  const T* index = x.data<T>();
  for (int64_t i = 0; i < rows; ++i)
    if (index[i] >= 0 && index[i] < columns) to[i * columns + index[i]] = 1;
  charge(context, "one_hot", static_cast<double>(rows) * (sizeof(T) + sizeof(float) * columns));
}

}  // namespace emulator

PD_REGISTER_PLUGIN_KERNEL(one_hot, sim_npu, ALL_LAYOUT, emulator::OneHot, int, int64_t) {
  kernel->OutputAt(0).SetDataType(phi::DataType::FLOAT32);
}
PD_REGISTER_PLUGIN_KERNEL(contiguous, sim_npu, ALL_LAYOUT, emulator::Contiguous, bool, uint8_t, int8_t, int16_t, int,
                          int64_t, float, double, ::phi::dtype::float16, ::phi::dtype::bfloat16,
                          ::phi::dtype::complex<float>, ::phi::dtype::complex<double>) {}
PD_REGISTER_PLUGIN_KERNEL(strided_copy, sim_npu, ALL_LAYOUT, emulator::StridedCopy, bool, uint8_t, int8_t, int16_t,
                          int, int64_t, float, double, ::phi::dtype::float16, ::phi::dtype::bfloat16,
                          ::phi::dtype::complex<float>, ::phi::dtype::complex<double>) {}
