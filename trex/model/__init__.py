"""Networks: encoders, the projector, class weights, synchronized batch norm, reading other people's weights."""
