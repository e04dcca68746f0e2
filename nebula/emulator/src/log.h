// What happened when, in virtual time? A list of kernels, copies, collectives and marks, kept while it is on.
#pragma once

namespace emulator {

enum Kind : int { kKernel = 0, kCopy = 1, kCollective = 2, kMark = 3 };

struct Event {
  double start_s, end_s;
  double bytes;  // moved through memory, or over the wire by this rank
  double flops;
  int kind;
  int stream;  // 0 is the null stream, -1 the host
  char name[64];
};

bool recording();
void record(int kind, const char* name, int stream, double start_s, double end_s, double bytes, double flops);

}  // namespace emulator
