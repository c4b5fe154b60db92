# cmake -DBUILD=DIR -DSOURCE=DIR -DWORK=DIR [-DCXX_FLAGS=...] -P install_test.cmake
# Installs into WORK/prefix, then builds and runs examples/train_loop against it from outside the tree.
set(flags -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER=${CXX} "-DCMAKE_CXX_FLAGS=${CXX_FLAGS}")
if(LAUNCHER)
  list(APPEND flags -DCMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER})
endif()

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "${command}: ${result}\n${output}")
  endif()
endfunction()

file(REMOVE_RECURSE ${WORK})
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/prefix)
# A copy, so that nothing beside the prefix can be found.
file(COPY ${SOURCE}/examples/train_loop DESTINATION ${WORK})
run(${CMAKE_COMMAND} -S ${WORK}/train_loop -B ${WORK}/build -G Ninja
    -DCMAKE_PREFIX_PATH=${WORK}/prefix ${flags})
run(${CMAKE_COMMAND} --build ${WORK}/build)
run(${WORK}/build/train_loop)

file(STRINGS ${SOURCE}/examples/train_loop/main.cpp lines)
list(LENGTH lines count)
if(count GREATER 40)
  message(FATAL_ERROR "examples/train_loop/main.cpp: ${count} lines, at most 40")
endif()
foreach(file include/parlo/tensor/tensor.h share/doc/parlo/LICENSE share/doc/parlo/NOTICE)
  if(NOT EXISTS ${WORK}/prefix/${file})
    message(FATAL_ERROR "cmake --install gave no ${file}")
  endif()
endforeach()
file(REMOVE_RECURSE ${WORK})
