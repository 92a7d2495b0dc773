# What cmake reads besides llama.cpp's own files, for `.ci/llama-server`: compiles most parts as few large files, which takes
# half as long. The files that are named cannot be compiled together with others, in the version that is pinned there.
function(compile_few_large_files)
    set_target_properties(llama llama-common server-context llama-server-impl PROPERTIES UNITY_BUILD ON)
    set_target_properties(llama-common server-context llama-server-impl PROPERTIES UNITY_BUILD_BATCH_SIZE 0)
    set_target_properties(llama PROPERTIES UNITY_BUILD_BATCH_SIZE 32)
    set_property(SOURCE "${CMAKE_SOURCE_DIR}/common/json.cpp" "${CMAKE_SOURCE_DIR}/common/jinja/value.cpp"
        TARGET_DIRECTORY llama-common PROPERTY SKIP_UNITY_BUILD_INCLUSION ON)
    set_property(SOURCE "${CMAKE_SOURCE_DIR}/src/models/glm5-next.cpp"
        TARGET_DIRECTORY llama PROPERTY SKIP_UNITY_BUILD_INCLUSION ON)
endfunction()
# Once all targets are known.
cmake_language(DEFER CALL compile_few_large_files)
