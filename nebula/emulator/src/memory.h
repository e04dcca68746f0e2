// How much memory does a device hold, and what do copies cost?
#pragma once
#include "paddle/phi/backends/device_ext.h"

namespace emulator {

void fill_memory(C_DeviceInterface* interface);

}  // namespace emulator
