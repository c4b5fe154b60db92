# Targets `format` and `format-check`: clang-format over every tracked header and source.
# Versions of clang-format disagree on details, so the one of the reference platform is preferred.
find_program(PARLO_CLANG_FORMAT NAMES clang-format-14 clang-format)
foreach(target format format-check)
  add_custom_target(${target}
    COMMAND ${CMAKE_COMMAND} -DTOOL=${PARLO_CLANG_FORMAT} -DMODE=${target} -DROOT=${PROJECT_SOURCE_DIR}
            -P ${PROJECT_SOURCE_DIR}/cmake/run_format.cmake
    VERBATIM)
endforeach()
