# Options, compile flags and the helpers every folder uses.
option(PARLO_BUILD_TESTS "Build the tests" ON)
option(PARLO_BUILD_BENCH "Build parlo-bench" ON)
option(PARLO_JUDGES "Build the rewards and the world that need Tesseract, TurboJPEG and FreeType" ON)
option(PARLO_FUZZ "Build the libFuzzer programs of tests/fuzz (clang)" OFF)
set(PARLO_SANITIZE "" CACHE STRING "Sanitizers, e.g. address,undefined or thread")

# x86-64-v3 (AVX2, FMA) is the floor; files under kernels/cpu/isa get wider instructions one by one.
add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:-march=x86-64-v3;-mtune=generic;-Wall;-Wextra;-fno-math-errno>"
                    "$<$<COMPILE_LANGUAGE:CXX>:-fno-trapping-math;-ffp-contract=off>"
                    "$<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CONFIG:Release>>:-O3>")
if(PARLO_SANITIZE)
  add_compile_options(-fsanitize=${PARLO_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${PARLO_SANITIZE})
endif()

if(PARLO_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()

# parlo_library(name DEPS a b PRIVATE c d EXCLUDE regex): a static library of every .cpp and, with a GPU
# backend, .cu below this folder; NAME/cuda/ is for that backend only, no_cuda.cpp for builds without.
# A folder without sources is an INTERFACE library. PRIVATE is for third-party packages.
function(parlo_library name)
  cmake_parse_arguments(ARG "" "EXCLUDE" "DEPS;PRIVATE" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  set(cuda_sources "")
  if(PARLO_GPU)
    file(GLOB_RECURSE cuda_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cu)
    list(FILTER sources EXCLUDE REGEX "/no_cuda\\.cpp$")
  else()
    list(FILTER sources EXCLUDE REGEX "/cuda/")
  endif()
  if(ARG_EXCLUDE)
    list(FILTER sources EXCLUDE REGEX "${ARG_EXCLUDE}")
  endif()
  if(sources)
    add_library(parlo_${name} STATIC ${sources})
    set(scope PUBLIC)
    parlo_cuda_sources(parlo_${name} ${cuda_sources})
    target_link_libraries(parlo_${name} PRIVATE ${ARG_PRIVATE})
  else()
    add_library(parlo_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  add_library(parlo::${name} ALIAS parlo_${name})
  set_target_properties(parlo_${name} PROPERTIES EXPORT_NAME ${name})
  target_compile_features(parlo_${name} ${scope} cxx_std_20)
  target_include_directories(parlo_${name} ${scope} $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>
                                                    $<INSTALL_INTERFACE:include/parlo>)
  target_link_libraries(parlo_${name} ${scope} ${ARG_DEPS})
  if(PARLO_FUZZ AND name MATCHES "^(kernels|autograd)$")  # arithmetic, which no loader gets to
    target_compile_options(parlo_${name} PRIVATE -fno-sanitize=all)
  endif()
endfunction()
