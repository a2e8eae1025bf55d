// What the binding files share.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace entropy_ext {

using Address = std::uintptr_t;

template <class T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

inline void raise_if(const char* error) {
  if (error != nullptr) throw std::runtime_error(std::string("entropy_ext: ") + error);
}

// Covariance, selection and weights; the token statistics are bound where the module is made.
void bind_token_selection(pybind11::module_& m);

}  // namespace entropy_ext
