// Accesses to memory that is not there become the error that CUDA reports.
#include "internal.h"
#include <csetjmp>
#include <csignal>

cudaError_t sticky_error = cudaSuccess;

static sigjmp_buf after_the_fault;
static bool is_guarded = false;
static void* fault_address;

void fail_context(cudaError_t error, const std::string& message) {
  if (sticky_error) return;
  sticky_error = error;
  pretended_device_say("%s; every call returns this error from now on, as on a GPU",
                       message.c_str());
}

static void on_fault(int, siginfo_t* information, void*) {
  fault_address = information->si_addr;
  siglongjmp(after_the_fault, 1);
}

void run_guarded(const Operation& operation, const std::string& name) {
  if (sticky_error) return;
  if (is_guarded) {
    operation();
    return;
  }
  struct sigaction ours = {}, segmentation_fault, bus_error;
  ours.sa_sigaction = on_fault;
  ours.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGSEGV, &ours, &segmentation_fault);
  sigaction(SIGBUS, &ours, &bus_error);
  is_guarded = true;
  if (sigsetjmp(after_the_fault, 0)) {
    fail_context(cudaErrorIllegalAddress, "illegal address in " + name + describe_position() +
                                              ": " + describe_address(fault_address));
  } else {
    operation();
  }
  is_guarded = false;
  sigaction(SIGSEGV, &segmentation_fault, nullptr);
  sigaction(SIGBUS, &bus_error, nullptr);
}
