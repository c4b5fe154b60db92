#include "rl/rewards/jpeg.h"

#if PARLO_HAVE_TURBOJPEG

#include <vector>

#include <turbojpeg.h>

#include "tensor/error.h"

namespace parlo {
namespace {

// A compressor and its output buffer, reused by one thread.
struct Compressor {
  tjhandle handle = tjInitCompress();
  std::vector<unsigned char> buffer;

  ~Compressor() {
    if (handle) tjDestroy(handle);
  }
};

}  // namespace

int64_t jpeg_bytes(const Image& image, int quality) {
  static thread_local Compressor compressor;
  CHECK(compressor.handle, "jpeg_bytes: TurboJPEG cannot be started");
  CHECK(image.width > 0 && image.height > 0, "jpeg_bytes: the image is empty");
  compressor.buffer.resize(tjBufSize(image.width, image.height, TJSAMP_420));
  unsigned char* out = compressor.buffer.data();
  unsigned long bytes = compressor.buffer.size();
  const int status = tjCompress2(compressor.handle, image.rgb.data(), image.width, 0, image.height,
                                 TJPF_RGB, &out, &bytes, TJSAMP_420, quality, TJFLAG_NOREALLOC);
  CHECK(status == 0, "jpeg_bytes: ", tjGetErrorStr2(compressor.handle));
  return static_cast<int64_t>(bytes);
}

Reward make_jpeg_compressibility_reward() {
  return reward_of_judge("jpeg_compressibility", [](const Image& image, const Prompt&) {
    return -(static_cast<double>(jpeg_bytes(image)) / 1000.0) / 500.0;
  });
}

Reward make_jpeg_incompressibility_reward() {
  return reward_of_judge("jpeg_incompressibility", [](const Image& image, const Prompt&) {
    return static_cast<double>(jpeg_bytes(image)) / 1000.0;
  });
}

}  // namespace parlo

#endif  // PARLO_HAVE_TURBOJPEG
