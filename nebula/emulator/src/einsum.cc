// How many multiply-adds does an einsum take?
#include <algorithm>
#include <map>

#include "price.h"

namespace emulator {
namespace {

// The terms left of the arrow, without spaces.
std::vector<std::string> terms_of(const std::string& equation) {
  std::vector<std::string> terms(1);
  for (char c : equation.substr(0, equation.find("->"))) {
    if (c == ',') terms.emplace_back();
    else if (c != ' ') terms.back() += c;
  }
  return terms;
}

// One label for each dim: letters stand for themselves, dims under an ellipsis for -1, -2, … from its right.
std::vector<int> labels_of(const std::string& term, int ndim) {
  size_t dots = term.find("...");
  if (dots == std::string::npos) return {term.begin(), term.end()};
  std::vector<int> labels(term.begin(), term.begin() + static_cast<long>(dots));
  for (int hidden = ndim - static_cast<int>(term.size() - 3); hidden > 0; --hidden) labels.push_back(-hidden);
  labels.insert(labels.end(), term.begin() + static_cast<long>(dots) + 3, term.end());
  return labels;
}

}  // namespace

double einsum_points(const std::string& equation, const std::vector<Operand>& inputs) {
  auto terms = terms_of(equation);
  std::map<int, double> sizes;
  size_t next = 0;
  for (auto& input : inputs) {
    if (input.slot != 0 || next == terms.size()) break;
    auto labels = labels_of(terms[next++], input.ndim);
    for (int d = 0; d < input.ndim && d < static_cast<int>(labels.size()); ++d)
      sizes[labels[d]] = std::max(sizes[labels[d]], static_cast<double>(input.dims[d]));
  }
  double points = 1;
  for (auto& size : sizes) points *= size.second;
  return points;
}

}  // namespace emulator
