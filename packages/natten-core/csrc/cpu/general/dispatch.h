// Entry points of the general kernels, with those of the instruction set in use.
#pragma once

#include "kernels.h"

namespace natten_core::cpu {

void general_forward(const GeneralKernels& kernels, const ForwardArgs& args);
void general_backward(const GeneralKernels& kernels, const BackwardArgs& args);
void general_qk(const GeneralKernels& kernels, const QkArgs& args);
void general_qk_backward(const GeneralKernels& kernels, const QkBackwardArgs& args);
void general_av(const GeneralKernels& kernels, const AvArgs& args);
void general_av_backward(const GeneralKernels& kernels, const AvBackwardArgs& args);

}  // namespace natten_core::cpu
