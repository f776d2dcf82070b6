//! The same cases against `rsync --daemon` and `syncd-recv`: their answers must agree.
