"""The mean and standard deviation of each channel, for pixels in [0, 1], that publishers trained with."""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
KINETICS = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
KINETICS_R3D = ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
