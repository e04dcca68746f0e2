#include "work.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>

#include "table.h"

namespace emulator {
namespace {

struct Record {
  std::mutex mutex;
  std::vector<Deed> deeds;
  std::string groups;  // a line each
};

Record* g_record = nullptr;  // never freed: threads of Paddle may outlive the exit handlers
std::atomic<int32_t> g_threads{0};

void write_record() {
  std::lock_guard<std::mutex> lock(g_record->mutex);
  std::string path = std::string(getenv("NEBULA_EMULATED_WORK")) + "/work." + std::to_string(rank());
  FILE* file = fopen((path + ".part").c_str(), "wb");
  bool whole = file && fprintf(file, "nebula-emulated-work 1\n%s\n", g_record->groups.c_str()) > 0;
  auto& deeds = g_record->deeds;
  whole = whole && fwrite(deeds.data(), sizeof(Deed), deeds.size(), file) == deeds.size();
  if (file && fclose(file) != 0) whole = false;
  if (!whole || rename((path + ".part").c_str(), path.c_str()) != 0) say("%s cannot be written", path.c_str());
}

bool begin_record() {
  const char* folder = getenv("NEBULA_EMULATED_WORK");
  if (!folder || !*folder) return false;
  g_record = new Record;
  return atexit(write_record) == 0;
}

}  // namespace

bool noting() {
  static const bool on = begin_record();
  return on;
}

void note(Deed deed) {
  if (!noting()) return;
  static thread_local const int32_t thread = g_threads++;
  deed.thread = thread;
  std::lock_guard<std::mutex> lock(g_record->mutex);
  g_record->deeds.push_back(deed);
}

void note_group(uint64_t id, const std::vector<int>& ranks) {
  if (!noting()) return;
  std::lock_guard<std::mutex> lock(g_record->mutex);
  g_record->groups += "group " + std::to_string(id);
  for (int member : ranks) g_record->groups += " " + std::to_string(member);
  g_record->groups += "\n";
}

}  // namespace emulator
