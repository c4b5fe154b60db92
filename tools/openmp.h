// Tesseract's OpenMP team fights the thread pool (10 ms a picture instead of 1.5). Its limit must
// stand in the environment when the process starts, so the process starts itself again, once.
#pragma once

namespace parlo {

void ensure_single_threaded_openmp(char** argv);

}  // namespace parlo
