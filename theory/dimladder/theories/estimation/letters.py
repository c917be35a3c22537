r"""What the letters of this engine's equations mean; `symbolic/notation.py` reads these lines."""

LETTERS = r"""
\alpha                  :: samples a dimension, $n/d$
\psi                    :: features a dimension, $k/d$; 1 without features
\lambda                 :: strength of the penalty :: loss.ridge or loss.ridge_per_sample
\rho                    :: variance of the target's latent field $z$
z                       :: latent field of the target, Gaussian
t                       :: what the label is a function of: the latent field with its noise
n                       :: noise inside of the label, standard Gaussian
\xi                     :: standard Gaussian
y, y_1                  :: label
u                       :: output of the student
\sigma                  :: logistic function $1/(1 + e^{-u})$
\ell                    :: loss
\ell_0                  :: loss of a fresh sample
\mathrm{prox}           :: output on a sample after training with it: minimises $\ell(y, u) + (u - \omega)^2/(2V)$
\omega                  :: output on a sample of the student that was trained without it
\omega_j                :: eigenvalue of cell $j$ of the inputs' covariance
f                       :: force of a sample on the student, $(\mathrm{prox} - \omega)/V$
\bar f                  :: mean force
\bar f_c                :: mean force in a cluster
\overline{f^2}, \overline{f^2}_c :: mean square of the force
\bar f^{\partial}       :: mean slope of the force in the latent field
\bar\ell, \bar\ell_c    :: mean loss on the training samples
\bar\varepsilon_c       :: chance of a wrong sign in a cluster
\mathbb{E}_{\omega}     :: average over $\omega$
\mathbb{E}_s            :: average over the fixed offset $s$ of a unit
\mu                     :: mean of the latent field, given $\omega$
v                       :: variance of the latent field, given $\omega$
\hat V, \hat V_c        :: curvature that the samples give the weights
\hat q, \hat q_c        :: variance of the random part of the samples' force on the weights
\hat m, \hat m_c        :: pull of the samples along the target, or along the mean of a cluster
f_1, f_2                :: forces of a sample on two fits
f_p                     :: force of a sample that counts $p$ times
p                       :: how often a fit counts a sample
c                       :: common part of the fields of two fits
\xi_a                   :: part of the field that fit $a$ has for itself
\omega_a                :: output of fit $a$ on a sample of no fit
\hat q_{12}             :: what the samples' forces on two fits have in common
q_{12}                  :: covariance of the fields of two fits
\zeta                   :: ridge of the weights, renormalised
\zeta_1                 :: the same, seen by a layer below
g                       :: resolvent of the features' covariance
g_0                     :: resolvent of the covariance of a layer
h                       :: the same, weighed by the target
h_0                     :: resolvent of a layer, weighed by the target
D_f, D_g, D_h           :: $f + \zeta f'$ for $f = g, h$
w                       :: weights of the student
w_1                     :: weight along a direction of the frame
k                       :: number of features
j                       :: cells of the spectrum; coordinates
i                       :: directions of the frame; samples
c                       :: clusters; curvature of the square loss where it stands alone
p_j                     :: share of the dimensions in cell $j$
T_j                     :: share of the target's power in cell $j$
a_s, b_s                :: linear and remaining power of the units with offset $s$
f_\star                 :: target without noise
b                       :: constant of the student's output
\mathrm{df}_2           :: second degrees of freedom, over the samples
\langle\cdot\rangle     :: average over the law of the data
\theta_j                :: entry of the target's direction
\eta                    :: proximal point of the penalty
A, A_j                  :: curvature of the effective problem of one coordinate
B_j                     :: field of the effective problem of one coordinate
r                       :: penalty of one weight
m_c                     :: mean output in a cluster
\mu_{c,j}               :: component of the mean of cluster $c$ along direction $j$
\rho_c                  :: share of the samples in a cluster
\Delta, \Delta_c        :: variance of the inputs in the bulk; of the noise of a label
\Delta^{\mathrm{s}}_c   :: variance of the inputs along a direction of the frame
R, R_g                  :: resolvent of the Hessian in the bulk
R^{\mathrm{s}}, R^{\mathrm{s}}_j :: resolvent of the Hessian along a direction of the frame
s, s_1                  :: drive along a direction of the frame
\pi_g                   :: share of the dimensions in group $g$
W_j                     :: weights of all outputs along a direction
V_c                     :: response of the outputs within a cluster
Q_c                     :: covariance of the outputs within a cluster
e_y                     :: unit vector of the class
\mathrm{softmax}        :: $e^{u_k}/\sum_l e^{u_l}$
\mathrm{Hess}           :: second derivatives of the loss in the outputs
\nabla                  :: gradient in the outputs
\mathrm{test\ loss}     :: mean loss of fresh samples
\mathrm{train\ loss}    :: mean loss on the training samples, without penalty
\beta                   :: inverse temperature, 1/algorithm.temperature
"""

BAYES = (
    r"""
Z                       :: chance of a label, given the mean $\omega$ of the latent field
\omega                  :: posterior mean of the latent field, before its own label is seen
I                       :: information of one label about the overlap
\Psi                    :: entropy of one label
\psi                    :: free entropy of the target's prior in the field $\hat q$
\hat q                  :: what all labels tell of one coordinate
\hat Q                  :: what all labels tell of one coordinate, a matrix
\xi                     :: standard Gaussian
\mathbb{E}_{\omega}     :: average over $\omega$
s_j                     :: variance of the inputs in cell $j$
q_1                     :: overlap of a cell by itself
c                       :: factor of the latent field in the label
\Delta                  :: variance of the label's noise
V                       :: variance of the latent field, given $\omega$
"""
    + LETTERS
)

SPECTRAL = (
    r"""
T                       :: weight of a sample, a function of its label
D                       :: matrix whose leading eigenvector is the estimate
x_i                     :: input of sample $i$
\varphi, \psi           :: functions that decide where an eigenvalue leaves the bulk
\ell                    :: place on the axis of eigenvalues
\bar\ell                :: edge of the bulk
\ell_\star              :: leading eigenvalue, where it has left the bulk
n                       :: number of samples
"""
    + LETTERS
)
