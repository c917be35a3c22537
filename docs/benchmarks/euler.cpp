// Order-parameter equations of an erf committee (Saad and Solla 1995, Goldt et al. 2019) by explicit Euler with a fixed
// step: the plain program that such curves are usually computed with. Every average is a function of four indices of the
// covariance, written as in the papers, and every sum runs over all units.
//
//   g++ -O3 -march=native -std=c++17 euler.cpp -o euler
//   ./euler K M BOTH ETA SIGMA T DT            prints CPU seconds, then Q (upper triangle by rows), R, v at time T
//
// Start: the deterministic one of erf_rhs.py.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>

using Matrix = std::vector<std::vector<double>>;
static const double PI = std::acos(-1.0);

static double two(const Matrix& C, int a, int b) {
    return 2 / PI * std::asin(C[a][b] / std::sqrt((1 + C[a][a]) * (1 + C[b][b])));
}

static double slope_two(const Matrix& C, int i, int k) {
    return 2 / PI / std::sqrt((1 + C[i][i]) * (1 + C[k][k]) - C[i][k] * C[i][k]);
}

static double three(const Matrix& C, int i, int b, int a) {
    const double low = (1 + C[i][i]) * (1 + C[a][a]) - C[i][a] * C[i][a];
    return 2 / PI / std::sqrt(low) * (C[b][a] * (1 + C[i][i]) - C[i][b] * C[i][a]) / (1 + C[i][i]);
}

static double four(const Matrix& C, int i, int k, int a, int b) {
    const double L4 = (1 + C[i][i]) * (1 + C[k][k]) - C[i][k] * C[i][k];
    const double L0 = L4 * C[a][b] - C[k][a] * C[k][b] * (1 + C[i][i]) - C[i][a] * C[i][b] * (1 + C[k][k]) +
                      C[i][k] * C[i][a] * C[k][b] + C[i][k] * C[i][b] * C[k][a];
    const double L1 = L4 * (1 + C[a][a]) - C[k][a] * C[k][a] * (1 + C[i][i]) - C[i][a] * C[i][a] * (1 + C[k][k]) +
                      2 * C[i][k] * C[i][a] * C[k][a];
    const double L2 = L4 * (1 + C[b][b]) - C[k][b] * C[k][b] * (1 + C[i][i]) - C[i][b] * C[i][b] * (1 + C[k][k]) +
                      2 * C[i][k] * C[i][b] * C[k][b];
    return 4 / (PI * PI) / std::sqrt(L4) * std::asin(L0 / std::sqrt(L1 * L2));
}

int main(int count, char** text) {
    if (count != 8) return 2;
    const int K = std::atoi(text[1]), M = std::atoi(text[2]), N = K + M;
    const bool both = std::atoi(text[3]) != 0;
    const double eta = std::atof(text[4]), sigma = std::atof(text[5]), T = std::atof(text[6]), dt = std::atof(text[7]);
    Matrix C(N, std::vector<double>(N, 0.0)), change = C;
    std::vector<double> c(N, -1.0), rate(K);
    for (int i = 0; i < K; ++i) {
        c[i] = 1.0;
        for (int k = 0; k < K; ++k) C[i][k] = 0.5 * (i == k) + 0.02 * std::cos(1.0 + i + k + i * k);
        for (int m = 0; m < M; ++m) C[i][K + m] = C[K + m][i] = 0.03 * std::sin(1.0 + 2 * i + 3 * m + i * m);
    }
    for (int m = 0; m < M; ++m) C[K + m][K + m] = 1.0;

    const std::clock_t begin = std::clock();
    const long steps = std::lround(T / dt);
    for (long step = 0; step < steps; ++step) {
        Matrix drift(K, std::vector<double>(N, 0.0));
        for (int i = 0; i < K; ++i)
            for (int b = 0; b < N; ++b)
                for (int a = 0; a < N; ++a) drift[i][b] += c[a] * three(C, i, b, a);
        for (int i = 0; i < K; ++i) {
            for (int m = K; m < N; ++m) change[i][m] = -eta * c[i] * drift[i][m];
            for (int k = i; k < K; ++k) {
                double square = sigma * sigma * slope_two(C, i, k);
                for (int a = 0; a < N; ++a)
                    for (int b = 0; b < N; ++b) square += c[a] * c[b] * four(C, i, k, a, b);
                change[i][k] = -eta * (c[i] * drift[i][k] + c[k] * drift[k][i]) + eta * eta * c[i] * c[k] * square;
            }
            rate[i] = 0.0;
            if (both)
                for (int a = 0; a < N; ++a) rate[i] -= eta * c[a] * two(C, i, a);
        }
        for (int i = 0; i < K; ++i) {
            for (int b = i; b < N; ++b) C[i][b] = C[b][i] = C[i][b] + dt * change[i][b];
            c[i] += dt * rate[i];
        }
    }
    std::printf("%.9g\n", double(std::clock() - begin) / CLOCKS_PER_SEC);
    for (int i = 0; i < K; ++i)
        for (int k = i; k < K; ++k) std::printf("%.17g\n", C[i][k]);
    for (int i = 0; i < K; ++i)
        for (int m = K; m < N; ++m) std::printf("%.17g\n", C[i][m]);
    for (int i = 0; i < K; ++i) std::printf("%.17g\n", c[i]);
}
