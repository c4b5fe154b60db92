# Target `bundle`: BUILD/bundle, a folder that runs on another x86-64 Linux with a GPU and without a
# network: bin/ (parlo, parlo-bench, the GPU tests in one program), lib/ (their common
# library and those of Debian that it needs; not glibc, libstdc++ and the driver), share/, peers/ and run_gpu_checks.
# Included by CMakeLists.txt it defines the target, run with cmake -P it fills the folder.
cmake_minimum_required(VERSION 3.25)

if(NOT CMAKE_SCRIPT_MODE_FILE)
  if(NOT PARLO_GPU STREQUAL cuda OR NOT PARLO_BUILD_BENCH OR NOT PARLO_BUILD_TESTS OR NOT TARGET parlo)
    return()
  endif()
  find_package(benchmark REQUIRED)
  find_package(doctest REQUIRED)
  # Nearly all of a program's size is device code, and zstd makes it a fifth (nvcc 12.8; drivers of
  # CUDA 12.4 and later read it).
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
    foreach(library parlo_tensor parlo_kernels)
      target_compile_options(${library} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--compress-mode=size>)
    endforeach()
  endif()

  # Everything but the programs' own objects goes into one library, so that the bundle holds it once.
  file(WRITE ${PROJECT_BINARY_DIR}/bundle_empty.cpp "")
  add_library(parlo_bundle SHARED EXCLUDE_FROM_ALL ${PROJECT_BINARY_DIR}/bundle_empty.cpp)
  list(TRANSFORM PARLO_FOLDERS REPLACE "(.+)" "$<TARGET_FILE:parlo_\\1>" OUTPUT_VARIABLE archives)
  target_link_libraries(parlo_bundle PRIVATE -Wl,--whole-archive ${archives} -Wl,--no-whole-archive parlo_tools)
  list(TRANSFORM PARLO_FOLDERS PREPEND parlo_ OUTPUT_VARIABLE folders)
  add_dependencies(parlo_bundle ${folders})

  # One program for all GPU tests. Those above kernels/ read fixtures, so they are compiled again for
  # a path within the bundle.
  file(GLOB gpu_test_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/*/gpu_*_test.cpp)
  set(parts $<TARGET_OBJECTS:parlo_test_main>)
  set(names "")
  foreach(source IN LISTS gpu_test_sources)
    string(REGEX REPLACE ".*/([a-z]+)/(gpu_[a-z0-9_]+)_test\\.cpp$" "\\1/\\2" name ${source})
    string(REPLACE "/" "_" target test_${name})
    list(APPEND names ${name})
    if(name MATCHES "^(tensor|kernels)/" AND TARGET ${target})
      list(APPEND parts $<TARGET_OBJECTS:${target}>)
    else()
      list(APPEND parts ${source})
    endif()
  endforeach()
  add_executable(bundle_gpu_tests EXCLUDE_FROM_ALL ${parts})
  target_include_directories(bundle_gpu_tests PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(bundle_gpu_tests PRIVATE doctest::doctest ${PARLO_EIGEN} ${PARLO_JSON} CUDA::cudart_static)
  target_compile_definitions(bundle_gpu_tests PRIVATE PARLO_SOURCE_DIR="share/parlo")
  target_compile_options(bundle_gpu_tests PRIVATE $<$<CONFIG:Release>:-O1>)

  add_executable(bundle_parlo EXCLUDE_FROM_ALL $<TARGET_OBJECTS:parlo>)
  add_executable(bundle_bench EXCLUDE_FROM_ALL $<TARGET_OBJECTS:parlo-bench>)
  target_link_libraries(bundle_bench PRIVATE parlo_bench_eigen benchmark::benchmark ${CMAKE_DL_LIBS})
  set_target_properties(bundle_parlo PROPERTIES OUTPUT_NAME parlo)
  set_target_properties(bundle_bench PROPERTIES OUTPUT_NAME parlo-bench)
  set_target_properties(bundle_gpu_tests PROPERTIES OUTPUT_NAME parlo-gpu-tests)
  set(programs bundle_parlo bundle_bench bundle_gpu_tests)
  set(program_files "")
  foreach(program IN LISTS programs)
    target_link_libraries(${program} PRIVATE parlo_bundle)
    # DT_RPATH, unlike DT_RUNPATH, also holds for the libraries that a library needs.
    target_link_options(${program} PRIVATE -Wl,--disable-new-dtags)
    set_target_properties(${program} PROPERTIES LINKER_LANGUAGE CXX BUILD_WITH_INSTALL_RPATH ON
                          INSTALL_RPATH "$ORIGIN/../lib" RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bundle_programs)
    list(APPEND program_files $<TARGET_FILE:${program}>)
  endforeach()
  add_custom_target(bundle
    COMMAND ${CMAKE_COMMAND} "-DPROGRAMS=${program_files}" "-DTESTS=${names}"
            "-DFOLDERS=$<TARGET_FILE_DIR:parlo_bundle>;$<TARGET_FILE_DIR:parlo_bench_eigen>" -DSTRIP=${CMAKE_STRIP}
            -DCOMPILER=${CMAKE_CXX_COMPILER} -DNM=${CMAKE_NM} -DSOURCE=${PROJECT_SOURCE_DIR}
            -DTO=${PROJECT_BINARY_DIR}/bundle -P ${CMAKE_CURRENT_LIST_FILE}
    DEPENDS ${programs} VERBATIM)
  return()
endif()

set(most_bytes 60000000)
file(REMOVE_RECURSE ${TO})
file(MAKE_DIRECTORY ${TO}/bin ${TO}/lib ${TO}/share/tessdata ${TO}/share/fonts)

# --- programs and their libraries ---
# Tesseract needs libarchive and libcurl only for training data in archives and pictures from URLs,
# but they bring ICU, GnuTLS and Kerberos, 50 MB. They are replaced, see below.
file(GET_RUNTIME_DEPENDENCIES EXECUTABLES ${PROGRAMS} DIRECTORIES ${FOLDERS} RESOLVED_DEPENDENCIES_VAR libraries
     UNRESOLVED_DEPENDENCIES_VAR unresolved
     PRE_EXCLUDE_REGEXES "^(libc|libm|libdl|librt|libpthread|libresolv|libutil|libstdc\\+\\+|libgcc_s)\\.so"
                         "^ld-linux" "^linux-vdso" "^lib(archive|curl)\\.so" "^libcuda\\.so")
if(unresolved)
  message(FATAL_ERROR "bundle: not found: ${unresolved}")
endif()
set(tesseract "")
foreach(library IN LISTS libraries)
  cmake_path(GET library FILENAME name)
  file(REAL_PATH ${library} real)
  file(COPY_FILE ${real} ${TO}/lib/${name})
  if(name MATCHES "^libtesseract\\.so")
    set(tesseract ${real})
  endif()
endforeach()
file(COPY ${PROGRAMS} DESTINATION ${TO}/bin)
file(GLOB stripped ${TO}/bin/* ${TO}/lib/*)
execute_process(COMMAND ${STRIP} --strip-unneeded ${stripped} COMMAND_ERROR_IS_FATAL ANY)

# A library of that name whose functions return 0, for every function PREFIX_* that Tesseract takes
# from it: no archive is ever read and no connection made, as where none is there to read.
function(replace_library prefix name)
  if(NOT undefined MATCHES " ${prefix}_")
    return()
  endif()
  set(code "")
  set(version "")
  set(symbols "")
  string(REGEX MATCHALL " ${prefix}_[a-z_]+[^ ;]*" found "${undefined}")
  foreach(symbol IN LISTS found)
    string(REGEX MATCH "${prefix}_[a-z_]+" plain ${symbol})
    string(APPEND code "extern \"C\" long ${plain}(void) { return 0; }\n")
    string(APPEND symbols " ${plain};")
    if(symbol MATCHES "@+([A-Za-z0-9_.]+)")
      set(version ${CMAKE_MATCH_1})
    endif()
  endforeach()
  file(WRITE ${TO}/replaced.cpp "${code}")
  set(options "")
  if(version)
    file(WRITE ${TO}/replaced.map "${version} { global:${symbols} };\n")
    set(options -Wl,--version-script=${TO}/replaced.map)
  endif()
  execute_process(COMMAND ${COMPILER} -shared -fPIC -s -nostdlib -Wl,-soname,${name} ${options} -o ${TO}/lib/${name}
                          ${TO}/replaced.cpp COMMAND_ERROR_IS_FATAL ANY)
  file(REMOVE ${TO}/replaced.cpp ${TO}/replaced.map)
endfunction()
if(tesseract)
  execute_process(COMMAND ${NM} -D --undefined-only --with-symbol-versions ${tesseract} OUTPUT_VARIABLE undefined
                  COMMAND_ERROR_IS_FATAL ANY)
  string(REPLACE "\n" ";" undefined "${undefined}")
  replace_library(archive libarchive.so.13)
  replace_library(curl libcurl.so.4)
endif()

# --- data ---
file(COPY ${SOURCE}/assets/ DESTINATION ${TO}/share/parlo)
foreach(model sd3 clip)  # the fixtures of tests/models
  file(GLOB fixtures ${SOURCE}/tests/golden/${model}_*)
  list(FILTER fixtures EXCLUDE REGEX "\\.py$")
  file(COPY ${fixtures} DESTINATION ${TO}/share/parlo/tests/golden)
endforeach()
file(COPY ${SOURCE}/bench/peers DESTINATION ${TO} FILES_MATCHING PATTERN "*.py")
file(COPY ${SOURCE}/bench/shapes.json ${SOURCE}/bench/run_gpu_checks ${SOURCE}/LICENSE ${SOURCE}/NOTICE DESTINATION ${TO})
string(REPLACE ";" "\n" tests "${TESTS}")
file(WRITE ${TO}/share/gpu_tests.txt "${tests}\n")
file(GLOB trained /usr/share/tesseract-ocr/*/tessdata/eng.traineddata /usr/share/tessdata/eng.traineddata)
file(GLOB fonts /usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf /usr/share/fonts/*/DejaVuSans-Bold.ttf)
foreach(found trained fonts)
  if(${found})
    list(GET ${found} 0 ${found})
  else()
    message(WARNING "bundle: no ${found} for the judges; install tesseract-ocr-eng and fonts-dejavu-core")
  endif()
endforeach()
file(COPY ${trained} DESTINATION ${TO}/share/tessdata)
file(COPY ${fonts} DESTINATION ${TO}/share/fonts)

# --- size ---
file(GLOB_RECURSE files ${TO}/*)
set(bytes 0)
set(largest "")
foreach(file IN LISTS files)
  file(SIZE ${file} size)
  math(EXPR bytes "${bytes} + ${size}")
  if(size GREATER 2000000)
    cmake_path(RELATIVE_PATH file BASE_DIRECTORY ${TO})
    string(APPEND largest "\n  ${file}: ${size}")
  endif()
endforeach()
message(STATUS "bundle: ${TO}, ${bytes} bytes; the largest:${largest}")
if(bytes GREATER most_bytes)
  message(FATAL_ERROR "bundle: ${bytes} bytes are more than ${most_bytes}")
endif()
