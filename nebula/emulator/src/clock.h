// What time is it on the emulated device?
//
// Work is done at once; each stream keeps a virtual time in seconds, the host one per thread. A kernel adds its
// price to its stream, a wait takes a maximum. Real time is never read, so the host's load changes nothing.
#pragma once
#include "paddle/phi/backends/device_ext.h"

namespace emulator {

double begin(C_Stream stream);              // when work issued now starts: max(stream, host)
void finish(C_Stream stream, double end_s);  // the stream is busy until then
double run(C_Stream stream, double seconds);  // both in one; says when it started
void join(C_Stream stream);                  // this thread waits for what the stream has got to do
void join_all();                             // ... and for all streams
double work_on_host(double seconds);         // this thread is busy; says since when
double slowed(double seconds);               // by the factor that the table has for this rank and step
double latest();                             // of this thread and of all streams
double computed();                           // of this thread and of the stream of its last kernel
int number(C_Stream stream);

void fill_streams(C_DeviceInterface* interface);

}  // namespace emulator
