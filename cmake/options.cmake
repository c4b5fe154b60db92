# Options, compile flags and the helpers every folder uses.
option(PARLO_BUILD_TESTS "Build the tests" ON)
option(PARLO_BUILD_BENCH "Build parlo-bench" ON)
set(PARLO_SANITIZE "" CACHE STRING "Sanitizers, e.g. address,undefined or thread")

# x86-64-v3 (AVX2, FMA) is the floor; files under kernels/cpu/isa are compiled again for AVX-512.
add_compile_options(-march=x86-64-v3 -mtune=generic -Wall -Wextra -fno-math-errno
                    -fno-trapping-math -ffp-contract=off)
add_compile_options($<$<CONFIG:Release>:-O3>)
if(PARLO_SANITIZE)
  add_compile_options(-fsanitize=${PARLO_SANITIZE} -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=${PARLO_SANITIZE})
endif()
find_package(Threads REQUIRED)

# parlo_library(name DEPS a b): a static library of every .cpp below this folder.
function(parlo_library name)
  cmake_parse_arguments(ARG "" "" "DEPS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  add_library(parlo_${name} STATIC ${sources})
  add_library(parlo::${name} ALIAS parlo_${name})
  set_target_properties(parlo_${name} PROPERTIES EXPORT_NAME ${name})
  target_include_directories(parlo_${name} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>
                                                  $<INSTALL_INTERFACE:include/parlo>)
  target_link_libraries(parlo_${name} PUBLIC ${ARG_DEPS})
endfunction()
