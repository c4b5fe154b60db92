# Options, compile flags and the helpers every folder uses.
option(PARLO_BUILD_TESTS "Build the tests" ON)
option(PARLO_BUILD_BENCH "Build parlo-bench" ON)
option(PARLO_JUDGES "Build the rewards and the world that need Tesseract, TurboJPEG and FreeType" ON)
option(PARLO_CUDA "Build for CUDA where nvcc is found" OFF)
set(PARLO_SANITIZE "" CACHE STRING "Sanitizers, e.g. address,undefined or thread")

# x86-64-v3 (AVX2, FMA) is the floor; files under kernels/cpu/isa get wider instructions one by one.
add_compile_options(-march=x86-64-v3 -mtune=generic -Wall -Wextra -fno-math-errno
                    -fno-trapping-math -ffp-contract=off)
add_compile_options($<$<CONFIG:Release>:-O3>)
if(PARLO_SANITIZE)
  add_compile_options(-fsanitize=${PARLO_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${PARLO_SANITIZE})
endif()

if(PARLO_CUDA)
  find_program(PARLO_NVCC nvcc HINTS ENV CUDA_PATH PATHS /usr/local/cuda/bin)
  if(PARLO_NVCC)
    message(STATUS "CUDA: found ${PARLO_NVCC}; this version has no CUDA kernels yet, so it runs on the CPU")
  else()
    message(STATUS "CUDA: no nvcc in PATH, CUDA_PATH or /usr/local/cuda/bin; building for the CPU only")
  endif()
endif()

# parlo_library(name DEPS a b PRIVATE c d EXCLUDE regex): a static library of every .cpp below this
# folder; a folder without sources is an INTERFACE library. PRIVATE is for third-party packages.
function(parlo_library name)
  cmake_parse_arguments(ARG "" "EXCLUDE" "DEPS;PRIVATE" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  if(ARG_EXCLUDE)
    list(FILTER sources EXCLUDE REGEX "${ARG_EXCLUDE}")
  endif()
  if(sources)
    add_library(parlo_${name} STATIC ${sources})
    set(scope PUBLIC)
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
endfunction()
