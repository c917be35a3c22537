r"""What the letters of these equations mean; `symbolic/notation.py` reads these lines."""

TARGET = r"""
\mathbb{E}              :: average over inputs and labels
d                       :: dimension of the input
h                       :: hidden feature, a polynomial of the projected input; $s^2$ is its variance
h_l, h_j                :: orthonormal Hermite polynomial of degree $l$ (or $j$) in $h/s$
y                       :: label
g                       :: link: $f_\star = g(h)$
T                       :: transform of the label whose covariance is diagonalised
\Delta                  :: variance of the label's noise
n_2                     :: samples of the second stage
j                       :: degrees
m                       :: orders of the link
l                       :: levels of the target; orders of the link in the readout
"""

LAYERWISE = (
    r"""
\alpha                  :: samples of the first stage, $n_1/(d\, d_{\mathrm{eff}})$
V                       :: variance of the transformed label $T(y)$
s                       :: standard deviation of the hidden feature
a                       :: size of a readout of the hidden directions
b_2                     :: second Hermite coefficient of the polynomial
\tau_1                  :: average of $T(y)\, h/s$
v_j, v_2                :: share of the variance of $h$ that has degree $j$
V_j, V_2                :: the same within the learned subspace
F_j, F_2                :: power of the label that degree $j$ represents
c_1, c_j                :: Hermite coefficients of the link
\chi                    :: ridge of the second stage, renormalised
\tau                    :: strength of the penalty
r_j, r_2                :: polynomials of degree $j$ a sample
A_j, A_2                :: gain: how much of degree $j$ the regression keeps
l_j, l_2                :: weight of degree $j$ in the penalty
D_2                     :: second degrees of freedom, over the samples
D_j                     :: number of polynomials of degree $j$
s_2                     :: power of the label that no fitted degree represents
V_y                     :: variance of the label
E                       :: error of the second stage on a fresh label
q_2                     :: norm of the learned feature
\psi_j                  :: basis functions of the readout
g(z), g_T(z)            :: resolvent of the label-weighted covariance; as a sample of transformed label $T$ sees it
z_c, z_b, z_{b'}        :: input along a direction of class $c$ (or $b$)
q                       :: squared overlap of a hidden direction with the learned subspace
q_A                     :: squared overlap of the leading eigenvector of the quadratics with the feature
u_2                     :: quadratic part of the feature, of unit variance
H                       :: shift of the feature among the quadratics
p_A                     :: squared overlap of the learned feature with its best quadratic
\hat u, u               :: quadratic of the learned coordinates closest to the feature; the feature, of unit variance
g_0                     :: resolvent where the feature detaches
\delta                  :: samples of a stage over its quadratics
d_1                     :: hidden directions, $d_{\mathrm{eff}}$
M_b                     :: square of the eigenvector along the quadratics of group $b$
G_b                     :: resolvent of the quadratics of group $b$
K_{bb'}, K_{vb}         :: variance of the noise between two groups of quadratics, of the feature and a group
f_b                     :: share of the quadratics in group $b$
b                       :: groups of quadratics
g_j                     :: resolvent of degree $j$ where the norms of samples scatter
z                       :: place on the axis of eigenvalues
\gamma                  :: share of the directions that the target has, $d_{\mathrm{eff}}/d$
f_c                     :: share of the hidden directions in class $c$
R                       :: self-energy of the bulk
L_c                     :: shift of the directions of class $c$
c                       :: classes of hidden directions
\lambda_j               :: penalty of degree $j$
x                       :: factor by which a sample's norm is damped
\nu, \nu_1              :: ridge of random units, renormalised: shared, and by samples
\lambda                 :: ridge of the fit on random units
p                       :: number of random units
\sigma_j                :: Hermite coefficient of the random units
E_f                     :: error of the fit by random units
G                       :: Gram matrix of the readout's features
e, v, \xi, b            :: mean and variance of the label given the features, a standard Gaussian, the best readout
"""
    + TARGET
)

BRANCHES = (
    r"""
\alpha                  :: samples of the first stage, $n_1/(d\, d_{\mathrm{eff}})$
\alpha_c                :: the ratio where a direction of a branch begins to be seen
t, t'                   :: transforms of the label, 0 that of the first stage
m                       :: branches
C_{tm}                  :: correlation of a transformed label with a branch
S_{tt'}                 :: covariance of the transformed labels
T_t                     :: transform of the label
u_m                     :: feature of a branch in units of its standard deviation
a                       :: size of a readout of the hidden directions
V_{mj}                  :: share of branch $m$ and degree $j$ within the learned subspace
F_{tt'j}                :: power of the transformed labels that degree $j$ represents
r_j                     :: polynomials of degree $j$ a sample
r                       :: number of branches
D_j                     :: number of polynomials of degree $j$
d_1                     :: directions of a branch, $d_{\mathrm{eff}}$
A_{tj}                  :: gain: how much of degree $j$ the regression keeps
\chi_t                  :: ridge of the second stage, renormalised
\tau_t                  :: strength of the penalty
l_{tj}                  :: weight of degree $j$ in the penalty
E_{tt'}                 :: errors of the second stage on a fresh label
\pi_k                   :: squared overlap of the $k$-th eigenvector of the quadratics
e_k, e_{km}             :: the direction of the features that it sees
H_k                     :: its shift
g, g_k                  :: resolvent of the quadratics; where the eigenvector detaches
R                       :: self-energy of the bulk
z                       :: place on the axis of eigenvalues
\delta                  :: samples over quadratics
T_0                     :: transform of the label in the first stage
M, M_{mm}               :: what the learned coordinates hold of the features
q_m                     :: squared overlap of the directions of a branch with the learned subspace
e_{tt'}                 :: the same without the noise of the fit
Q_{tt'}, Q              :: covariance of the learned features
K_{tm}, K               :: covariance of learned and hidden features
P, P_{mm}               :: what the learned features explain of the hidden ones
\hat g_{\alpha}         :: Hermite coefficients of the link in the eigenbasis of $P$
p_i                     :: eigenvalues of $P$
\alpha_i                :: degrees of a Hermite polynomial of several arguments
i                       :: directions of the eigenbasis
v_j, v_2                :: share of the variance of a feature that has degree $j$
\langle\cdot\rangle     :: average over the directions of a branch
"""
    + TARGET
)

PLATEAUS = (
    r"""
\kappa                  :: $\log n/\log d$
A                       :: generating function of the degrees of $h$ in the input
t                       :: degree in the input; argument of the generating function
\mu_m                   :: Hermite coefficients of the link
\varepsilon_{\mathrm{kernel}} :: error of a kernel
\varepsilon_{\mathrm{two\text{-}layer}} :: error of a network with one trained layer
\varepsilon_{\mathrm{deep}} :: error of a network that learns all levels
\epsilon_1, \epsilon_l  :: exponent of the directions of a level: $d^{\epsilon_l}$ of them
\kappa_1                :: exponent where a level is learned
\rho_l, \rho_1, \rho_L  :: share of a level that is learned
\rho_{l+1}              :: share of the next level that is learned
L                       :: number of levels
v_{l,j}                 :: share of degree $j$ in level $l$
\omega_{l+1}            :: exponent of the samples that a feature of that degree costs
R                       :: what lies in learned levels and is of a degree that the samples determine
"""
    + TARGET
)

TREE = (
    r"""
\alpha                  :: samples in units of those that a level needs
\alpha_l                :: samples a (number of polynomials below x directions of level $l$)
P_l                     :: polynomial of level $l$
H_l, H_{l-1}            :: share of the features of level $l$ in the learned polynomials
q_l, q_1                :: overlap of the directions of level $l$, those below known
q_{l+1}, Q_{l+1}        :: the same, of the next level
v_j, v_1, v_2           :: share of degree $j$ in a polynomial
c_m                     :: Hermite coefficients of the link
\tau_1                  :: average of $T(y)\, h/s$
"""
    + TARGET
)

LEARNERS = (
    r"""
A_g                     :: gain of an eigenspace of the kernel
F_g                     :: power of the target in that eigenspace
m_g                     :: dimension of that eigenspace
e_g, e_{\pm}            :: eigenvalue of the kernel
g                       :: eigenspaces of the kernel; link where it has an argument
n                       :: number of samples
A(t)                    :: generating function of the degrees of $h$ in the input
A_{tj}                  :: gain of degree $j$ for a transform of the label
\chi                    :: ridge, renormalised
\lambda                 :: ridge of the kernel :: algorithm.kernel_ridge
"""
    + PLATEAUS
    + LAYERWISE
    + BRANCHES
)

FIRST_LAYER = (
    r"""
q                       :: squared overlap of a neuron with the hidden subspace
q_1                     :: squared overlap of a neuron with a class of hidden directions
a_1                     :: size of the readout of a class
\phi_1                  :: share of the directions that a class has
\rho                    :: growth rate of the overlap
\nu                     :: variance that the noise of a step adds
\gamma                  :: share of the directions that the target has, $d_{\mathrm{eff}}/d$
t                       :: steps
"""
    + TARGET
)
