// Which rule prices which kernel? Names are those of Paddle's kernels; a name that is not listed is priced by bytes.
#include <unordered_map>

#include "price.h"

namespace emulator {
namespace {

constexpr uint32_t slot(int s) { return 1u << s; }

Rule product(int left, int right) { return {Form::Product, left, right, false, -1, 0}; }
Rule product_grad(int left, int right) { return {Form::ProductGrad, left, right, false, -1, 0}; }
Rule convolution(bool transposed) { return {Form::Convolution, 0, 1, transposed, -1, 0}; }
Rule convolution_grad(bool transposed) { return {Form::ConvolutionGrad, 0, 1, transposed, -1, 0}; }
Rule lookup(int table) { return {Form::Bytes, 0, 1, false, table, 0}; }
Rule unread(uint32_t slots) { return {Form::Bytes, 0, 1, false, -1, slots}; }
Rule form(Form f) { return {f, 0, 1, false, -1, 0}; }

const std::unordered_map<std::string, Rule>& rules() {
  static const std::unordered_map<std::string, Rule> table = {
      {"matmul", product(0, 1)},
      {"bmm", product(0, 1)},
      {"mv", product(0, 1)},
      {"linear_v2", product(0, 1)},
      {"fused_gemm_epilogue", product(0, 1)},
      {"matmul_with_flatten", product(0, 1)},
      {"addmm", product(1, 2)},
      {"baddbmm", product(1, 2)},
      {"matmul_grad", product_grad(0, 1)},
      {"bmm_grad", product_grad(0, 1)},
      {"mv_grad", product_grad(0, 1)},
      {"linear_v2_grad", product_grad(0, 1)},
      {"fused_gemm_epilogue_grad", product_grad(0, 1)},
      {"matmul_with_flatten_grad", product_grad(0, 1)},
      {"addmm_grad", product_grad(1, 2)},
      {"baddbmm_grad", product_grad(1, 2)},
      {"conv2d", convolution(false)},
      {"conv3d", convolution(false)},
      {"depthwise_conv2d", convolution(false)},
      {"conv2d_transpose", convolution(true)},
      {"conv3d_transpose", convolution(true)},
      {"depthwise_conv2d_transpose", convolution(true)},
      {"conv2d_grad", convolution_grad(false)},
      {"conv3d_grad", convolution_grad(false)},
      {"depthwise_conv2d_grad", convolution_grad(false)},
      {"conv2d_transpose_grad", convolution_grad(true)},
      {"conv3d_transpose_grad", convolution_grad(true)},
      {"depthwise_conv2d_transpose_grad", convolution_grad(true)},
      {"einsum", form(Form::Einsum)},
      {"einsum_grad", form(Form::EinsumGrad)},
      {"rnn", {Form::Recurrent, 0, 2, false, -1, 0}},
      {"rnn_grad", {Form::Recurrent, 0, 2, true, -1, 0}},
      // only the rows that are looked up are read
      {"embedding", lookup(1)},
      {"c_embedding", lookup(0)},
      {"gather", lookup(0)},
      {"gather_nd", lookup(0)},
      {"index_select", lookup(0)},
      {"index_sample", lookup(0)},
      {"take_along_axis", lookup(0)},
      {"slice", lookup(0)},
      {"strided_slice", lookup(0)},
      {"index_elementwise_get", lookup(0)},
      // gradients that look at the shape of what was forward's input, not at its values
      {"embedding_grad", unread(slot(1))},
      {"c_embedding_grad", unread(slot(0))},
      {"gather_grad", unread(slot(0))},
      {"gather_nd_grad", unread(slot(0))},
      {"index_select_grad", unread(slot(0))},
      {"index_sample_grad", unread(slot(0))},
      {"take_along_axis_grad", unread(slot(0))},
      {"index_elementwise_get_grad", unread(slot(0))},
      {"slice_grad", unread(slot(0))},
      {"strided_slice_grad", unread(slot(0))},
      {"concat_grad", unread(slot(0))},
      {"add_grad", {Form::PassedOn, 0, 1, false, -1, slot(0) | slot(1)}},
      {"subtract_grad", unread(slot(0) | slot(1))},
      {"sum_grad", unread(slot(0))},
      {"mean_grad", unread(slot(0))},
      {"mean_all_grad", unread(slot(0))},
      {"expand_grad", unread(slot(0))},
      {"expand_as_grad", unread(slot(0))},
      {"tile_grad", unread(slot(0))},
      {"cumsum_grad", unread(slot(0))},
      {"roll_grad", unread(slot(0))},
      {"where_grad", unread(slot(1) | slot(2))},
      {"full_like", unread(slot(0))},
      {"full_batch_size_like", unread(slot(0))},
      // nothing runs on a device for these
      {"empty", form(Form::Free)},
      {"empty_like", form(Form::Free)},
      {"shape", form(Form::Free)},
      {"shape64", form(Form::Free)},
      {"numel", form(Form::Free)},
      {"full_int_array", form(Form::Free)},
      {"nop", form(Form::Free)},
      {"depend", form(Form::Free)},
      {"share_buffer", form(Form::Free)},
      {"share_data", form(Form::Free)},
      {"reshape", form(Form::FreeIfShared)},
      {"reshape_grad", form(Form::FreeIfShared)},
      {"reshape_with_xshape", form(Form::FreeIfShared)},
      {"squeeze", form(Form::FreeIfShared)},
      {"squeeze_grad", form(Form::FreeIfShared)},
      {"squeeze_with_xshape", form(Form::FreeIfShared)},
      {"unsqueeze", form(Form::FreeIfShared)},
      {"unsqueeze_grad", form(Form::FreeIfShared)},
      {"unsqueeze_with_xshape", form(Form::FreeIfShared)},
      {"flatten", form(Form::FreeIfShared)},
      {"flatten_grad", form(Form::FreeIfShared)},
      {"flatten_with_xshape", form(Form::FreeIfShared)},
      {"view_dtype", form(Form::Free)},
      {"view_shape", form(Form::Free)},
  };
  return table;
}

}  // namespace

Rule rule_for(const std::string& kernel) {
  auto found = rules().find(kernel);
  return found == rules().end() ? Rule{} : found->second;
}

}  // namespace emulator
