# cmake --install: headers, static libraries, the tool and find_package(parlo).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(config_dir ${CMAKE_INSTALL_LIBDIR}/cmake/parlo)

set(libraries "")
foreach(folder IN LISTS PARLO_FOLDERS)
  if(NOT folder STREQUAL "tools")
    list(APPEND libraries parlo_${folder})
    install(DIRECTORY ${folder}/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/parlo/${folder}
            FILES_MATCHING PATTERN "*.h")
  endif()
endforeach()
install(TARGETS ${libraries} EXPORT parloTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT parloTargets NAMESPACE parlo:: DESTINATION ${config_dir})
if(TARGET parlo)
  install(TARGETS parlo RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

configure_package_config_file(cmake/parloConfig.cmake.in ${PROJECT_BINARY_DIR}/parloConfig.cmake
                              INSTALL_DESTINATION ${config_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/parloConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/parloConfig.cmake ${PROJECT_BINARY_DIR}/parloConfigVersion.cmake
        DESTINATION ${config_dir})
install(FILES LICENSE NOTICE DESTINATION ${CMAKE_INSTALL_DOCDIR})
