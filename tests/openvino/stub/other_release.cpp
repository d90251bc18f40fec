// An OpenVINO of a release line that nobody knows: the functions that tell its version, and nothing else.
struct Version {
    const char* build_number;
    const char* description;
};

extern "C" int ov_get_openvino_version(Version* version) {
    version->build_number = "2031.1.0-1-stub";
    version->description = "stub";
    return 0;
}

extern "C" void ov_version_free(Version*) {}
