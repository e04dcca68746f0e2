// What does nebula.emulator.clock call through ctypes? The functions marked EXPORT; all else stays hidden.
#pragma once

#define EXPORT extern "C" __attribute__((visibility("default")))
