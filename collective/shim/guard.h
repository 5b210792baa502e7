// What both shims share: every function returns 0, or a code with the text in morph_last_error().
#pragma once
#include <c10/util/Exception.h>
#include <string>

namespace morph {
std::string& last_error();

template <class F>
int guard(F&& f) {
  try {
    f();
    return 0;
  } catch (const c10::Error& e) {
    last_error() = e.what_without_backtrace();
    return 1;
  } catch (const std::exception& e) {
    last_error() = e.what();
    return 2;
  } catch (...) {
    last_error() = "unknown C++ exception";
    return 3;
  }
}
} // namespace morph
