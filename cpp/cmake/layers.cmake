# One layer = one folder cpp/<layer> = one shared library trtlab_<layer> = one target trtlab::<layer>
#           = one component of find_package(trtlab).
include(CMakePackageConfigHelpers)

find_package(Threads REQUIRED)

# Below whatever prefix is chosen: a wheel installs with the prefix site-packages/trtlab, and the extension modules
# look for ../lib, so the name does not follow the distribution's habit (lib64, lib/<triplet>).
set(TRTLAB_INSTALL_LIBDIR lib)
set(TRTLAB_INSTALL_CMAKEDIR ${TRTLAB_INSTALL_LIBDIR}/cmake/trtlab)

set(TRTLAB_LAYERS_core "")
set(TRTLAB_LAYERS_openvino core)
set(TRTLAB_LAYERS_cuda core)
set(TRTLAB_LAYERS_tensorrt core cuda)

# trtlab_set_warnings(<target>): for the project's own code only, so that they never reach a consumer.
function(trtlab_set_warnings target)
    target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic)
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
        # g++ 12 warns of `"text" + std::to_string(x)` in the standard library itself (GCC bug 105651).
        target_compile_options(${target} PRIVATE -Wno-restrict)
    endif()
    if(TRTLAB_WERROR)
        target_compile_options(${target} PRIVATE -Werror)
    endif()
endfunction()

# trtlab_add_layer(<layer> [PUBLIC target...] [PRIVATE target...] [PRIVATE_INCLUDE folder...])
#
# Everything in src/ is compiled, everything in include/ is public and installed. The layers that this one stands on
# are linked publicly. PRIVATE_INCLUDE folders are seen by src/ only: no public header may need them.
function(trtlab_add_layer layer)
    cmake_parse_arguments(PARSE_ARGV 1 ARG "" "" "PUBLIC;PRIVATE;PRIVATE_INCLUDE")
    set(target trtlab_${layer})
    file(GLOB sources CONFIGURE_DEPENDS src/*.cpp)
    file(GLOB headers CONFIGURE_DEPENDS include/trtlab/${layer}/*.hpp)

    add_library(${target} SHARED ${sources} ${headers})
    add_library(trtlab::${layer} ALIAS ${target})
    list(TRANSFORM TRTLAB_LAYERS_${layer} PREPEND trtlab:: OUTPUT_VARIABLE below)
    target_link_libraries(${target} PUBLIC ${below} ${ARG_PUBLIC} PRIVATE ${ARG_PRIVATE})
    target_compile_features(${target} PUBLIC cxx_std_20)
    target_include_directories(${target}
        PUBLIC $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:include>
        PRIVATE src)
    target_include_directories(${target} SYSTEM PRIVATE ${ARG_PRIVATE_INCLUDE})
    # Nobody interposes these symbols, and without this the compiler has to assume that somebody may.
    target_compile_options(${target} PRIVATE -fno-semantic-interposition)
    if(NOT TRTLAB_SANITIZE)
        target_link_options(${target} PRIVATE -Wl,--no-undefined)
    endif()
    trtlab_set_warnings(${target})
    # No version in the file name: a wheel cannot hold the symbolic links that go with one.
    set_target_properties(${target} PROPERTIES EXPORT_NAME ${layer} INSTALL_RPATH "$ORIGIN")

    install(TARGETS ${target} EXPORT trtlab-${layer}-targets LIBRARY DESTINATION ${TRTLAB_INSTALL_LIBDIR})
    install(DIRECTORY include/ DESTINATION include FILES_MATCHING PATTERN "*.hpp")
    install(EXPORT trtlab-${layer}-targets NAMESPACE trtlab:: DESTINATION ${TRTLAB_INSTALL_CMAKEDIR})
endfunction()

# trtlab_add_layers(<layer>...): adds cpp/<layer> for each, after the layers that it stands on, and installs the CMake
# package that describes them. Sets TRTLAB_BUILT_LAYERS in the caller's scope.
function(trtlab_add_layers)
    set(ordered)
    foreach(layer IN LISTS ARGN)
        if(NOT DEFINED TRTLAB_LAYERS_${layer})
            message(FATAL_ERROR "TRTLAB_COMPONENTS names '${layer}'; expected some of: core, openvino, cuda, tensorrt.")
        endif()
        list(APPEND ordered ${TRTLAB_LAYERS_${layer}} ${layer})
    endforeach()
    list(REMOVE_DUPLICATES ordered)
    foreach(layer IN LISTS ordered)
        add_subdirectory(${PROJECT_SOURCE_DIR}/cpp/${layer} ${PROJECT_BINARY_DIR}/cpp/${layer})
    endforeach()
    set(TRTLAB_BUILT_LAYERS ${ordered} PARENT_SCOPE)

    configure_package_config_file(${PROJECT_SOURCE_DIR}/cpp/cmake/trtlabConfig.cmake.in
        ${PROJECT_BINARY_DIR}/trtlabConfig.cmake INSTALL_DESTINATION ${TRTLAB_INSTALL_CMAKEDIR}
        NO_SET_AND_CHECK_MACRO)
    write_basic_package_version_file(${PROJECT_BINARY_DIR}/trtlabConfigVersion.cmake
        VERSION ${PROJECT_VERSION} COMPATIBILITY SameMinorVersion)
    install(FILES ${PROJECT_BINARY_DIR}/trtlabConfig.cmake ${PROJECT_BINARY_DIR}/trtlabConfigVersion.cmake
        DESTINATION ${TRTLAB_INSTALL_CMAKEDIR})
endfunction()
