#include "table.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

namespace emulator {
namespace {

constexpr char kFirstLine[] = "nebula-emulated-devices 1";
constexpr size_t kMostDevices = 64;

}  // namespace

int rank() {
  static const int value = [] {
    const char* text = getenv("PADDLE_TRAINER_ID");
    return text ? atoi(text) : 0;
  }();
  return value;
}

void say(const char* format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  fprintf(stderr, "[sim_npu] rank %d: %s\n", rank(), text);  // one call: lines of several ranks stay whole
}

const Table& Table::get() {
  static const Table* table = [] {
    auto* made = new Table;
    const char* path = getenv("NEBULA_EMULATED_DEVICES");
    std::string fault = path && *path ? made->read(path) : "NEBULA_EMULATED_DEVICES names no table of devices";
    if (!fault.empty()) {
      say("%s; no emulated device is available", fault.c_str());
      made->devices_.clear();
    }
    return made;
  }();
  return *table;
}

std::string Table::read(const char* path) {
  std::ifstream file(path);
  std::string line, where = std::string(path) + ", line ";
  if (!file) return std::string(path) + " cannot be read";
  if (!std::getline(file, line) || line != kFirstLine) return where + "1: expected `" + kFirstLine + "`";
  for (int number = 2; std::getline(file, line); ++number) {
    std::string fault = read_line(line);
    if (!fault.empty()) return where + std::to_string(number) + ": " + fault;
  }
  if (devices_.empty()) return std::string(path) + " lists no device";
  return "";
}

std::string Table::read_line(const std::string& line) {
  std::istringstream words(line);
  std::string kind;
  if (!(words >> kind)) return "";
  if (kind == "patience_s") return words >> patience_s_ ? "" : "patience_s needs a number of seconds";
  if (kind == "device") {
    size_t index = 0;
    Device d;
    words >> index >> d.memory_bytes >> d.float32_flops >> d.bfloat16_flops >> d.float16_flops >>
        d.memory_bytes_per_s >> d.kernel_s >> d.host_bytes_per_s;
    if (!words) return "a device has an index and seven numbers";
    if (index != devices_.size() || index >= kMostDevices) return "devices count from 0 without a gap, 64 at most";
    devices_.push_back(d);
    return "";
  }
  if (kind == "link") {
    int from = 0, to = 0;
    Link l;
    words >> from >> to >> l.bytes_per_s >> l.latency_s;
    if (!words) return "a link has two ranks and two numbers";
    links_[{from, to}] = l;
    return "";
  }
  if (kind == "fault") {
    Fault f;
    words >> f.rank >> f.factor >> f.first >> f.last;
    if (!words) return "a fault has a rank, a factor and two steps";
    faults_.push_back(f);
    return "";
  }
  if (kind == "plain") {
    int rank = 0;
    if (!(words >> rank)) return "plain needs a rank";
    plain_.insert(rank);
    return "";
  }
  if (kind == "port" || kind == "through") return "";  // of nebula.emulator.replay
  return "unknown word `" + kind + "`";
}

bool Table::plain() const { return getenv("PADDLE_TRAINER_ID") && plain_.count(rank()) > 0; }

double Table::slowness(int step) const {
  double factor = 1;
  for (auto& fault : faults_)
    if (fault.factor > 0 && fault.rank == rank() && fault.first <= step && step <= fault.last) factor *= fault.factor;
  return factor;
}

bool Table::fails(int step) const {
  for (auto& fault : faults_)
    if (fault.factor == 0 && fault.rank == rank() && fault.first == step) return true;
  return false;
}

const Link* Table::link(int from, int to) const {
  auto found = links_.find({from, to});
  if (found != links_.end()) return &found->second;
  say("the table of emulated devices has no link from rank %d to rank %d", from, to);
  return nullptr;
}

}  // namespace emulator
