// Opens a region in which the compiler may use one instruction set, whatever the command line says.
#pragma once

#define CONVFIRST_PRAGMA(x) _Pragma(#x)
#if defined(__clang__)
#define CONVFIRST_BEGIN_TARGET(features) \
  CONVFIRST_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define CONVFIRST_END_TARGET CONVFIRST_PRAGMA(clang attribute pop)
#define CONVFIRST_UNROLL CONVFIRST_PRAGMA(clang loop unroll(full))
#else
// GCC's own intrinsics start from an undefined register, which its warning mistakes for a bug (PR 105593).
#define CONVFIRST_BEGIN_TARGET(features)                           \
  CONVFIRST_PRAGMA(GCC push_options)                               \
  CONVFIRST_PRAGMA(GCC target features)                            \
  CONVFIRST_PRAGMA(GCC diagnostic ignored "-Wmaybe-uninitialized") \
  CONVFIRST_PRAGMA(GCC diagnostic ignored "-Wuninitialized")
#define CONVFIRST_END_TARGET CONVFIRST_PRAGMA(GCC pop_options)
#define CONVFIRST_UNROLL CONVFIRST_PRAGMA(GCC unroll 64)
#endif
// Older compilers know neither its instructions nor its name.
#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 18 : __GNUC__ >= 12)
#define CONVFIRST_KNOWS_AVX512FP16
#endif
#define CONVFIRST_ALWAYS_INLINE __attribute__((always_inline))
#define CONVFIRST_INLINE inline CONVFIRST_ALWAYS_INLINE

namespace convfirst {
template <auto kValue>
struct Constant {
  static constexpr auto value = kValue;
};
}  // namespace convfirst
