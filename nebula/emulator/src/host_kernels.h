// Which kernels does the device have? Every kernel of the CPU that can be called on lent memory.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "price.h"

namespace phi {
class Kernel;
class KernelArgsDef;
class KernelContext;
}  // namespace phi

namespace emulator {

// Where an argument of a typed kernel lies at the call: in an integer register, or on the stack.
enum class Pass { Input, OptionalInput, Inputs, OptionalInputs, Bases, Output, Outputs, Text, Other };
struct Argument {
  Pass pass = Pass::Other;
  int slot = 0;  // among the inputs, or among the outputs
  bool on_stack = false;
  int at = 0;
};

struct HostKernel {
  std::string name;
  const phi::Kernel* cpu = nullptr;
  void* function = nullptr;  // the CPU's kernel as a typed C++ function
  std::vector<Argument> arguments;
  int stack_words = 0;
  Rule rule;
};

// False when a kernel takes an argument that cannot be lent (sparse tensors, tensor arrays).
bool lay_out(const phi::KernelArgsDef& definition, HostKernel* kernel);

void register_host_kernels();

// Runs the CPU's kernel on lent memory and charges its price; the first is called by the stub.
extern "C" void nebula_emulator_dispatch(HostKernel* kernel, uint64_t* integers, void* floats, uint64_t* stack);
void run_with_context(HostKernel* kernel, phi::KernelContext* context);

}  // namespace emulator
