# The CUDA kernels. What every build has of them is the plan: which kernels would run a problem, and why not others.

# A family of kernels: support.cpp, which the plan asks, in every build; the rest with nvcc.
set(NATTEN_CUDA_HOST csrc/cuda/plan.cpp)
foreach(family simt dense band box)
  set(folder "csrc/cuda/${family}")
  file(GLOB kernels CONFIGURE_DEPENDS RELATIVE "${CMAKE_CURRENT_SOURCE_DIR}" "${folder}/*.cu")
  file(GLOB host CONFIGURE_DEPENDS RELATIVE "${CMAKE_CURRENT_SOURCE_DIR}" "${folder}/*.cpp")
  list(REMOVE_ITEM host "${folder}/support.cpp")
  list(APPEND NATTEN_CUDA_HOST "${folder}/support.cpp")
  set(NATTEN_CUDA_KERNELS_${family} ${kernels})
  set(NATTEN_CUDA_LAUNCHERS_${family} ${host})
endforeach()

add_library(natten_cuda_plan OBJECT ${NATTEN_CUDA_HOST})
target_include_directories(natten_cuda_plan PRIVATE csrc csrc/include)
natten_compile_options(natten_cuda_plan)

# Whether to build the kernels.
set(NATTEN_WITH_CUDA OFF)
if(NOT NATTEN_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(NATTEN_WITH_CUDA ON)
  elseif(NATTEN_CUDA STREQUAL "ON")
    message(FATAL_ERROR "NATTEN_CUDA=ON, but there is no working nvcc. Put it on the PATH, or name it in CUDACXX.")
  else()
    message(STATUS "No nvcc: natten-core is built without its CUDA kernels.")
  endif()
endif()
if(NOT NATTEN_WITH_CUDA)
  return()
endif()

# Architectures: machine code for each, and for the last also code that later devices compile.
if(NATTEN_CUDA_ARCHITECTURES STREQUAL "")
  execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
                  OUTPUT_VARIABLE present ERROR_QUIET RESULT_VARIABLE failed)
  if(failed EQUAL 0)
    string(REGEX MATCHALL "[0-9]+\\.[0-9]+" present "${present}")
    string(REPLACE "." "" NATTEN_CUDA_ARCHITECTURES "${present}")
    list(FILTER NATTEN_CUDA_ARCHITECTURES EXCLUDE REGEX "^([1-6].|7[0-4])$") # no kernels for these
  endif()
  if(NATTEN_CUDA_ARCHITECTURES STREQUAL "")
    set(NATTEN_CUDA_ARCHITECTURES 80 90)
  endif()
elseif(NATTEN_CUDA_ARCHITECTURES STREQUAL "all")
  set(NATTEN_CUDA_ARCHITECTURES 75 80 86 90 100 120) # 89 runs the code of 86
endif()
string(REPLACE "," ";" NATTEN_CUDA_ARCHITECTURES "${NATTEN_CUDA_ARCHITECTURES}")
list(REMOVE_DUPLICATES NATTEN_CUDA_ARCHITECTURES)
list(SORT NATTEN_CUDA_ARCHITECTURES COMPARE NATURAL)
if(NATTEN_CUDA_ARCHITECTURES MATCHES "^[0-9]+(;[0-9]+)*$")
  list(POP_BACK NATTEN_CUDA_ARCHITECTURES last)
  list(TRANSFORM NATTEN_CUDA_ARCHITECTURES APPEND "-real")
  list(APPEND NATTEN_CUDA_ARCHITECTURES ${last})
endif()
set(NATTEN_TENSOR_CORE_ARCHITECTURES ${NATTEN_CUDA_ARCHITECTURES})
list(FILTER NATTEN_TENSOR_CORE_ARCHITECTURES EXCLUDE REGEX "^[67][0-9]")
message(STATUS "CUDA kernels for ${NATTEN_CUDA_ARCHITECTURES}")

set(CMAKE_CUDA_ARCHITECTURES OFF) # each target has its own
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)

# Many architectures make a large file. Drivers before 12.4 cannot unpack the small form; nvcc 13's need a later one.
set(smaller "")
list(LENGTH NATTEN_CUDA_ARCHITECTURES count)
if(count GREATER 2 AND CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 13)
  set(smaller "SHELL:--compress-mode size")
endif()

# natten_add_kernels(family architectures...): one object library, its files compiled side by side.
function(natten_add_kernels family)
  if(NOT NATTEN_CUDA_KERNELS_${family} OR NOT ARGN)
    return()
  endif()
  add_library(natten_cuda_${family} OBJECT ${NATTEN_CUDA_KERNELS_${family}})
  target_include_directories(natten_cuda_${family} PRIVATE csrc csrc/include)
  set_target_properties(natten_cuda_${family} PROPERTIES CUDA_ARCHITECTURES "${ARGN}" CUDA_RUNTIME_LIBRARY Static)
  target_compile_options(natten_cuda_${family} PRIVATE
    -O3 --expt-relaxed-constexpr "SHELL:-Xcompiler -Wall,-Wextra" "SHELL:-Xfatbin -compress-all"
    "SHELL:--threads ${NATTEN_NVCC_THREADS}" ${smaller})
  if(NATTEN_WERROR)
    target_compile_options(natten_cuda_${family} PRIVATE "SHELL:--Werror all-warnings")
  endif()
  target_link_libraries(natten_cuda INTERFACE $<TARGET_OBJECTS:natten_cuda_${family}>)
endfunction()

add_library(natten_cuda_dispatch OBJECT csrc/cuda/dispatch.cpp csrc/bindings/cuda.cpp
  ${NATTEN_CUDA_LAUNCHERS_simt} ${NATTEN_CUDA_LAUNCHERS_dense} ${NATTEN_CUDA_LAUNCHERS_band}
  ${NATTEN_CUDA_LAUNCHERS_box})
target_include_directories(natten_cuda_dispatch PRIVATE csrc csrc/include)
target_link_libraries(natten_cuda_dispatch PRIVATE pybind11::module CUDA::cudart_static)
string(REPLACE ";" "," built "${NATTEN_CUDA_ARCHITECTURES}")
string(REPLACE ";" "," tensor_cores "${NATTEN_TENSOR_CORE_ARCHITECTURES}")
target_compile_definitions(natten_cuda_dispatch PRIVATE
  "NATTEN_CUDA_ARCHITECTURES=\"${built}\"" "NATTEN_CUDA_TENSOR_CORE_ARCHITECTURES=\"${tensor_cores}\"")
natten_compile_options(natten_cuda_dispatch)

add_library(natten_cuda INTERFACE)
target_compile_definitions(natten_cuda INTERFACE NATTEN_CUDA "NATTEN_CUDA_TOOLKIT=\"${CMAKE_CUDA_COMPILER_VERSION}\"")
target_link_libraries(natten_cuda INTERFACE $<TARGET_OBJECTS:natten_cuda_dispatch> CUDA::cudart_static)
natten_add_kernels(simt ${NATTEN_CUDA_ARCHITECTURES})
natten_add_kernels(dense ${NATTEN_TENSOR_CORE_ARCHITECTURES})
natten_add_kernels(band ${NATTEN_TENSOR_CORE_ARCHITECTURES})
natten_add_kernels(box ${NATTEN_TENSOR_CORE_ARCHITECTURES})
