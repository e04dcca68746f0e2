// The stub for x86-64 under the System V calling convention (AMD64 ABI 1.0, section 3.2).
#include <cstring>

#include "stub.h"

#ifndef __x86_64__
#error "the emulated device is written for x86-64 only"
#endif

namespace emulator {

void write_thunk(unsigned char* at, void* data) {
  auto* stub = reinterpret_cast<void*>(&nebula_emulator_stub);
  const unsigned char code[] = {0x49, 0xBB, 0, 0, 0, 0, 0, 0, 0, 0,  // mov r11, data
                                0x49, 0xBA, 0, 0, 0, 0, 0, 0, 0, 0,  // mov r10, stub
                                0x41, 0xFF, 0xE2};                   // jmp r10
  memcpy(at, code, sizeof code);
  memcpy(at + 2, &data, 8);
  memcpy(at + 12, &stub, 8);
}

}  // namespace emulator

// The frame is described to the unwinder, so that exceptions of a kernel pass through.
asm(R"(
.text
.globl nebula_emulator_stub
.hidden nebula_emulator_stub
.type nebula_emulator_stub,@function
nebula_emulator_stub:
 .cfi_startproc
 pushq %rbp
 .cfi_def_cfa_offset 16
 .cfi_offset %rbp,-16
 movq %rsp,%rbp
 .cfi_def_cfa_register %rbp
 subq $192,%rsp
 movq %rdi,-48(%rbp)
 movq %rsi,-40(%rbp)
 movq %rdx,-32(%rbp)
 movq %rcx,-24(%rbp)
 movq %r8,-16(%rbp)
 movq %r9,-8(%rbp)
 movaps %xmm0,-192(%rbp)
 movaps %xmm1,-176(%rbp)
 movaps %xmm2,-160(%rbp)
 movaps %xmm3,-144(%rbp)
 movaps %xmm4,-128(%rbp)
 movaps %xmm5,-112(%rbp)
 movaps %xmm6,-96(%rbp)
 movaps %xmm7,-80(%rbp)
 movq %r11,%rdi
 leaq -48(%rbp),%rsi
 leaq -192(%rbp),%rdx
 leaq 16(%rbp),%rcx
 call nebula_emulator_dispatch@PLT
 leave
 .cfi_def_cfa %rsp,8
 ret
 .cfi_endproc
.size nebula_emulator_stub,.-nebula_emulator_stub

.globl nebula_emulator_call
.hidden nebula_emulator_call
.type nebula_emulator_call,@function
nebula_emulator_call:
 .cfi_startproc
 pushq %rbp
 .cfi_def_cfa_offset 16
 .cfi_offset %rbp,-16
 movq %rsp,%rbp
 .cfi_def_cfa_register %rbp
 movq %rdi,%rax
 movq %rsi,%r10
 movslq %r8d,%r8
 leaq (,%r8,8),%r9
 subq %r9,%rsp
1: testq %r8,%r8
 jz 2f
 decq %r8
 movq (%rcx,%r8,8),%r11
 movq %r11,(%rsp,%r8,8)
 jmp 1b
2: movaps (%rdx),%xmm0
 movaps 16(%rdx),%xmm1
 movaps 32(%rdx),%xmm2
 movaps 48(%rdx),%xmm3
 movaps 64(%rdx),%xmm4
 movaps 80(%rdx),%xmm5
 movaps 96(%rdx),%xmm6
 movaps 112(%rdx),%xmm7
 movq (%r10),%rdi
 movq 8(%r10),%rsi
 movq 16(%r10),%rdx
 movq 24(%r10),%rcx
 movq 32(%r10),%r8
 movq 40(%r10),%r9
 call *%rax
 leave
 .cfi_def_cfa %rsp,8
 ret
 .cfi_endproc
.size nebula_emulator_call,.-nebula_emulator_call
)");
