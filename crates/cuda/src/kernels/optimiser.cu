// One pass of an optimiser over one parameter. Constants are rounded on the host as PyTorch rounds them.

extern "C" __global__ void adamw(float *parameter, const float *gradient, float *first, float *second, float factor,
                                 float keep, float first_weight, float beta2, float second_weight, float bias_root,
                                 float step_size, float epsilon, u64 n) {
    u64 i = global_index();
    if (i >= n) return;
    float g = gradient[i] * factor;
    float m = first[i] + first_weight * (g - first[i]);
    float v = second[i] * beta2 + second_weight * g * g;
    first[i] = m;
    second[i] = v;
    parameter[i] = parameter[i] * keep - step_size * m / (sqrtf(v) / bias_root + epsilon);
}

extern "C" __global__ void rmsprop(float *parameter, const float *gradient, float *square, float factor, float alpha,
                                   float square_weight, float rate, float epsilon, float decay, u64 n) {
    u64 i = global_index();
    if (i >= n) return;
    float g = gradient[i] * factor + decay * parameter[i];
    float s = square[i] * alpha + square_weight * g * g;
    square[i] = s;
    parameter[i] -= rate * g / (sqrtf(s) + epsilon);
}

extern "C" __global__ void sgd(float *parameter, const float *gradient, float factor, float rate, float decay, u64 n) {
    u64 i = global_index();
    if (i < n) parameter[i] -= rate * (gradient[i] * factor + decay * parameter[i]);
}
