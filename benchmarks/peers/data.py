"""A folder of images as tutorials read one: torchvision's ImageFolder, decoded at every use."""

from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder


def loader(images: str, image_size: int, batch_size: int) -> DataLoader:
    """Return shuffled batches [N, 3, H, W] in [-1, 1] and labels."""
    change = transforms.Compose(
        [
            transforms.Resize(image_size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    dataset = ImageFolder(images, change)
    return DataLoader(dataset, batch_size, shuffle=True, drop_last=True)
