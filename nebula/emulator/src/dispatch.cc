// What happens between Paddle's call of a kernel of the device and the CPU's kernel?
#include <typeindex>

#include "clock.h"
#include "host_kernels.h"
#include "lend.h"
#include "log.h"
#include "stub.h"
#include "table.h"

#include "paddle/phi/backends/custom/custom_context.h"
#include "paddle/phi/core/kernel_context.h"
#include "paddle/phi/core/kernel_factory.h"

namespace emulator {
namespace {

using phi::DenseTensor;
using phi::TensorBase;

using TensorList = std::vector<const DenseTensor*>;
using BaseList = std::vector<const TensorBase*>;

void charge(const HostKernel& kernel, const phi::DeviceContext& context, const Work& work) {
  auto stream = reinterpret_cast<C_Stream>(static_cast<const phi::CustomContext&>(context).stream());
  Price cost = price(kernel.rule, Table::get().device(context.GetPlace().GetDeviceId()), work);
  if (cost.seconds == 0) return;
  cost.seconds = slowed(cost.seconds);
  double start = run(stream, cost.seconds);
  record(kKernel, kernel.name.c_str(), number(stream), start, start + cost.seconds, cost.bytes, cost.flops);
}

const DenseTensor* dense(const TensorBase* tensor) {
  return tensor && DenseTensor::classof(tensor) ? static_cast<const DenseTensor*>(tensor) : nullptr;
}

void borrow(Loan* loan, const Argument& argument, uint64_t word) {
  switch (argument.pass) {
    case Pass::Input: loan->add_input(reinterpret_cast<DenseTensor*>(word), argument.slot); break;
    case Pass::Output: loan->add_output(reinterpret_cast<DenseTensor*>(word), argument.slot); break;
    case Pass::OptionalInput: {
      auto* given = reinterpret_cast<paddle::optional<DenseTensor>*>(word);
      if (*given) loan->add_input(given->get_ptr(), argument.slot);
      break;
    }
    case Pass::Inputs:
      for (auto* tensor : *reinterpret_cast<TensorList*>(word)) loan->add_input(tensor, argument.slot);
      break;
    case Pass::OptionalInputs: {
      auto* given = reinterpret_cast<paddle::optional<TensorList>*>(word);
      if (*given)
        for (auto* tensor : **given) loan->add_input(tensor, argument.slot);
      break;
    }
    case Pass::Bases:
      for (auto* tensor : *reinterpret_cast<BaseList*>(word)) loan->add_input(dense(tensor), argument.slot);
      break;
    case Pass::Outputs:
      for (auto* tensor : *reinterpret_cast<std::vector<DenseTensor*>*>(word)) loan->add_output(tensor, argument.slot);
      break;
    default: break;
  }
}

struct ContextSwap {  // a kernel context sees the CPU's device context while this lives
  ContextSwap(phi::KernelContext* context, phi::DeviceContext* mine, phi::DeviceContext* other)
      : context_(context), mine_(mine) {
    context_->SetDeviceContext(other);
  }
  ~ContextSwap() { context_->SetDeviceContext(mine_); }
  phi::KernelContext* context_;
  phi::DeviceContext* mine_;
};

}  // namespace

bool lay_out(const phi::KernelArgsDef& definition, HostKernel* kernel) {
  static const std::pair<std::type_index, Pass> passes[] = {
      {typeid(const DenseTensor&), Pass::Input},
      {typeid(const paddle::optional<DenseTensor>&), Pass::OptionalInput},
      {typeid(const TensorList&), Pass::Inputs},
      {typeid(const paddle::optional<TensorList>&), Pass::OptionalInputs},
      {typeid(const BaseList&), Pass::Bases},
      {typeid(DenseTensor*), Pass::Output},
      {typeid(std::vector<DenseTensor*>), Pass::Outputs}};
  // System V: six integer registers, of which the context takes the first, eight for floating point, then the stack
  int integers = 1, floats = 0, words = 0;
  auto place = [&](Pass pass, bool floating, int slot) {
    int& used = floating ? floats : integers;
    bool on_stack = used >= (floating ? 8 : 6);
    kernel->arguments.push_back({pass, slot, on_stack, on_stack ? words++ : used++});
  };
  auto place_tensors = [&](auto& definitions) {
    int slot = 0;
    for (auto& tensor : definitions) {
      Pass pass = Pass::Other;
      for (auto& known : passes)
        if (known.first == tensor.type_index) pass = known.second;
      if (pass == Pass::Other) return false;
      place(pass, false, slot++);
    }
    return true;
  };
  if (!place_tensors(definition.input_defs())) return false;
  for (auto& attribute : definition.attribute_defs()) {
    bool floating = attribute.type_index == phi::AttributeType::FLOAT32 ||
                    attribute.type_index == phi::AttributeType::FLOAT64;
    place(attribute.type_index == phi::AttributeType::STRING ? Pass::Text : Pass::Other, floating, 0);
  }
  if (!place_tensors(definition.output_defs())) return false;
  kernel->stack_words = (words + 1) & ~1;  // the stack stays aligned to 16 bytes
  return true;
}

extern "C" void nebula_emulator_dispatch(HostKernel* kernel, uint64_t* integers, void* floats, uint64_t* stack) {
  auto& context = *reinterpret_cast<const phi::DeviceContext*>(integers[0]);
  Bench& bench = Bench::of(context.GetPlace());
  Loan loan(&bench);
  const std::string* text = nullptr;
  for (auto& argument : kernel->arguments) {
    uint64_t word = (argument.on_stack ? stack : integers)[argument.at];
    if (argument.pass == Pass::Text) text = reinterpret_cast<const std::string*>(word);
    else if (argument.pass != Pass::Other) borrow(&loan, argument, word);
  }
  integers[0] = reinterpret_cast<uint64_t>(&bench.context);
  nebula_emulator_call(kernel->function, integers, floats, stack, kernel->stack_words);
  loan.give_back();
  Work work = loan.work();
  if (text && (kernel->rule.form == Form::Einsum || kernel->rule.form == Form::EinsumGrad)) work.equation = *text;
  charge(*kernel, context, work);
}

void run_with_context(HostKernel* kernel, phi::KernelContext* context) {
  auto& device = const_cast<phi::DeviceContext&>(context->GetDeviceContext<phi::DeviceContext>());
  Bench& bench = Bench::of(device.GetPlace());
  Loan loan(&bench);
  size_t inputs = kernel->cpu->args_def().input_defs().size(), outputs = kernel->cpu->args_def().output_defs().size();
  for (size_t slot = 0; slot < inputs; ++slot) {
    auto range = context->InputRangeAt(slot);
    for (int i = range.first; i < range.second; ++i)
      loan.add_input(dense(&context->InputAt<TensorBase>(i)), static_cast<int>(slot));
  }
  for (size_t slot = 0; slot < outputs; ++slot) {
    auto range = context->OutputRangeAt(slot);
    for (int i = range.first; i < range.second; ++i)
      loan.add_output(const_cast<DenseTensor*>(dense(context->MutableOutputAt<TensorBase>(i))),
                      static_cast<int>(slot));
  }
  {
    ContextSwap swap(context, &device, &bench.context);
    (*kernel->cpu)(context);
  }
  loan.give_back();
  charge(*kernel, device, loan.work());
}

}  // namespace emulator
