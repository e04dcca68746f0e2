// What do the ranks' arrays hold after a collective, and when is it over?
#pragma once
#include "paddle/phi/backends/device_ext.h"

namespace emulator {

void fill_collectives(C_DeviceInterface* interface);

}  // namespace emulator
