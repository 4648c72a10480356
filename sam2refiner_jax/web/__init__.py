"""The page of `sam2refiner demo --web`: what is uploaded and clicked, answered by one model, kept in memory alone."""
