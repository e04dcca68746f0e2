// How is a C++ function called whose arguments are only known while running? The machine code for one processor.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {

// Saves the arguments of a call and hands them to nebula_emulator_dispatch with what register r11 holds.
void nebula_emulator_stub();

// Calls `function` with six integer registers, eight floating-point ones and `words` (even) words of stack.
void nebula_emulator_call(void* function, uint64_t* integers, void* floats, uint64_t* stack, int words);
}

namespace emulator {

constexpr size_t kThunkBytes = 32;
// Writes code at `at` that enters the stub with `data` in r11.
void write_thunk(unsigned char* at, void* data);

}  // namespace emulator
